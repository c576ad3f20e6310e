"""What libraries train with, in our loop: their losses on pairs, their optimizers, and the Trainer's own loop."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from benchmarks.peers import open_clip, trainer
from experiments.heads import Bench
from siglip_med.losses import LossOutput, PairBatch
from siglip_med.models import TwoTower
from siglip_med.training.text_pools import PromptPool, TextBatch
from tools.pretraining.base import PACKAGED


class OneAnImage(PromptPool):
    """A sentence for each image, of one of its positive conditions by chance, as libraries take image-text pairs."""

    def __init__(self, pool: PromptPool) -> None:
        """Takes the sentences of another pool."""
        vars(self).update(vars(pool))

    def sample(self, labels: Tensor, step: int) -> TextBatch:
        """``[B]`` conditions and sentences, one for each row of ``[B, C]`` labels."""
        random = np.random.default_rng([self.seed, step])
        condition = torch.tensor([int(random.choice(np.flatnonzero(row))) for row in (labels > 0).numpy()])
        drawn = torch.from_numpy(random.integers(self._counts[condition.numpy()]))
        return TextBatch(condition, self._offsets[condition] + drawn)


class Theirs(nn.Module):
    """A library's loss of pairs on the diagonal, in the place of ours; ``kind`` is ``clip`` or ``siglip``."""

    def __init__(self, kind: str) -> None:
        """Builds it."""
        super().__init__()
        self.kind = kind
        self.siglip = open_clip.part("loss").SigLipLoss() if kind == "siglip" else None

    def forward(self, pairs: PairBatch, coefficients: object) -> LossOutput:
        """The loss of a step, in float32."""
        with torch.autocast("cpu", enabled=False):
            scale = pairs.logit_scale.exp()
            if self.siglip is None:  # of VisionTextDualEncoderModel: scale times cosine of each text and image
                total = image_text_contrastive_loss(scale * pairs.cosine.T)
            else:
                total = self.siglip(pairs.image, pairs.text, scale, pairs.logit_bias)
        return LossOutput(total, {}, {})


@dataclass(frozen=True)
class Trainer:
    """AdamW with the defaults of the Hugging Face Trainer: one rate for all, no decay, linear schedule, no warm-up."""

    learning_rate: float

    def build(self, model: TwoTower, total_steps: int) -> tuple[torch.optim.Optimizer, Any]:
        """For one run."""
        optimizer = torch.optim.AdamW(_trained(model), lr=self.learning_rate, weight_decay=0.0)
        return optimizer, get_linear_schedule_with_warmup(optimizer, 0, total_steps)


@dataclass(frozen=True)
class OpenClip:
    """AdamW as open_clip's training script builds it, cosine schedule; warm-up over a tenth of the steps."""

    learning_rate: float

    def build(self, model: TwoTower, total_steps: int) -> tuple[torch.optim.Optimizer, Any]:
        """For one run."""
        optimizer = open_clip.optimizer_of(model, self.learning_rate)
        return optimizer, get_cosine_schedule_with_warmup(optimizer, total_steps // 10, total_steps)


def _trained(model: TwoTower) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def choose_trained(model: TwoTower, whole: bool) -> None:
    """Trains the weights of the blocks that adapters sit in, or the adapters; what is not trained stays at its value.

    Adapters start at zero, so those that are not trained change nothing.
    """
    for backbone in model.backbones.values():
        if isinstance(backbone, PeftModel):
            adapted = [name for name, _ in backbone.named_parameters() if ".lora_" in name]
            blocks = tuple({found[0] for name in adapted if (found := re.match(r".*\.layers?\.\d+\.", name))})
            (backbone.base_model.disable_adapter_layers if whole else backbone.base_model.enable_adapter_layers)()
            for name, parameter in backbone.named_parameters():
                if name.startswith(blocks):
                    parameter.requires_grad_((".lora_" in name) != whole)


def train_by_library(bench: Bench, rate: float) -> None:
    """The Trainer's own loop on the packaged base, a file and a sentence a time; its adapters end in our model."""
    c, lora = bench.components, bench.settings.model["adaptation"]
    frame, rows = c.data.table.frame, c.data.split.train
    random = np.random.default_rng((bench.settings.seed, 5))
    positive = [random.choice(np.flatnonzero(labels)) for labels in c.data.table.labels[rows] > 0]
    texts = [str(random.choice(c.training_prompts[condition])) for condition in positive]
    pairs = trainer.Pairs(PACKAGED, [c.data.table.root / name for name in frame["image"].iloc[rows]], texts)
    model = trainer.build(PACKAGED, rank=lora["rank"], alpha=lora["alpha"], dropout=lora["dropout"])
    batch, steps = bench.settings.data["batch_size"], int(bench.settings.trainer["max_steps"])
    trainer.fit(model, pairs, batch, steps, lambda: None, rate, "linear")
    bench.model.load_trainable_state(bench.start)
    found = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    bench.model.load_trainable_state({f"backbones.model.{name}": value for name, value in found.items()}, partial=True)
