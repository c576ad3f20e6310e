"""The Hugging Face recipe: Trainer, AutoProcessor image by image, one text per image, transformers' own SigLIP loss."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import AutoProcessor, SiglipModel, Trainer, TrainerCallback, TrainingArguments

TARGETS = r".*encoder\.layers\.({blocks})\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"
"""The linear layers that our own adapters sit on by default, in some blocks."""


class Pairs(Dataset[dict[str, Tensor]]):
    """Files and a sentence each, read and processed when they are asked for.

    Args:
        folder: of the model, with its processor.
        images: files.
        texts: one sentence per image.
    """

    def __init__(self, folder: Path, images: Sequence[Path], texts: Sequence[str]) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.images, self.texts = list(images), list(texts)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``pixel_values`` ``[3, H, W]`` and ``input_ids`` ``[L]``."""
        image = Image.open(self.images[index]).convert("RGB")
        made = self.processor(
            text=self.texts[index],
            images=image,
            padding="max_length",
            truncation=True,
            max_length=64,
            return_tensors="pt",
        )
        return {name: made[name][0] for name in ("pixel_values", "input_ids")}


def collate(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """Stacks the items and asks the model for its loss."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]} | {"return_loss": True}


def build(folder: Path, first_block: int = 0, rank: int = 16, alpha: int = 32, dropout: float = 0.05) -> nn.Module:
    """The model with LoRA on the layers that ours adapts from a block on, everything else frozen."""
    targets = TARGETS.format(blocks="|".join(str(number) for number in range(first_block, 100)))
    lora = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
    return get_peft_model(SiglipModel.from_pretrained(folder), lora)


def fit(
    model: nn.Module,
    pairs: Pairs,
    batch_size: int,
    steps: int,
    on_step: Callable[[], object],
    learning_rate: float = 1e-4,
    schedule: str = "cosine",
) -> None:
    """Trains as the library's examples do.

    Args:
        model: from `build`.
        pairs: the data.
        batch_size: pairs a step.
        steps: optimizer steps.
        on_step: called after each of them.
        learning_rate: at the start.
        schedule: of it, by the library's name.
    """
    with tempfile.TemporaryDirectory() as name:
        arguments = TrainingArguments(
            output_dir=name,
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type=schedule,
            weight_decay=0.01,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            dataloader_drop_last=True,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            use_cpu=True,
            disable_tqdm=True,
            seed=0,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=pairs,
            data_collator=collate,
            callbacks=[_AfterStep(on_step)],
        )
        trainer.train()


class _AfterStep(TrainerCallback):
    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.call()
