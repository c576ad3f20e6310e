"""What the LightningModule does around a step: it looks at the gradients, and keeps scale and bias in range."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from siglip_med.core.errors import UserError
from siglip_med.data import Batch
from siglip_med.losses import LayeredLoss, MultiPositiveSigmoid, WeightedTerm
from siglip_med.metrics import RetrievalMetrics
from siglip_med.models import Logits, TwoTower, siglip
from siglip_med.training.module import FineTuneModule
from siglip_med.training.optim import AdamW
from siglip_med.training.text_pools import PromptPool
from tests.models import tiny

PROMPTS = [["eczema", "red itchy rash"], ["psoriasis"], ["melanoma", "dark mole"]]
BATCH = Batch(
    torch.randn(4, 3, tiny.IMAGE, tiny.IMAGE, generator=torch.Generator().manual_seed(0)),
    torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1]]),
    torch.arange(4),
)


@pytest.fixture
def model(tmp_path) -> TwoTower:
    logits = Logits(scale=10.0, bias=-5.0, scale_range=(9.0, 11.0), bias_range=(-5.5, -4.5))
    return siglip(str(tiny.write_siglip(tmp_path)), logits=logits)


def module_of(model: TwoTower, rate: float) -> FineTuneModule:
    distance = 1 - torch.eye(3)
    return FineTuneModule(
        model,
        LayeredLoss({"sigmoid": WeightedTerm(MultiPositiveSigmoid())}),
        AdamW(learning_rate=1e-4, scale_learning_rate=rate, warmup=0.0),
        PromptPool(PROMPTS, model.tokenize, "all", seed=0),
        evaluation_prompts=PROMPTS,
        dissimilarity=distance,
        condition_counts=torch.tensor([1, 2, 2]),
        primary=torch.tensor([0, 1, 1, 2]),
        metrics=RetrievalMetrics(distance),
        seed=0,
    )


def checkpoint_of(base: str = "a", split: str = "b") -> dict[str, object]:
    return {"base": {"fingerprint": base * 64}, "split_hash": split * 64}


@pytest.mark.parametrize(
    ("theirs", "message"),
    [({"base": "c"}, "base model is cccc.*this run's is aaaa"), ({"split": "c"}, "split is cc.*is bbbb")],
)
def test_a_run_is_not_resumed_on_another_base_or_split(model, theirs, message):
    module = module_of(model, rate=1e-3)
    module.checkpoint_payload = checkpoint_of()
    with pytest.raises(UserError, match=f"cannot resume: .*{message}"):
        module.on_load_checkpoint({"siglip_med": checkpoint_of(**theirs)})


class Stop(Exception):
    """Ends a run in the middle of a step."""


class StopBeforeTheUpdate(pl.Callback):
    """Ends a run once the first backward pass is through."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        raise Stop


def fit(module: FineTuneModule, steps: int, *callbacks: pl.Callback) -> None:
    pl.Trainer(
        max_steps=steps,
        logger=False,
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, DataLoader([BATCH] * steps, batch_size=None))


def test_scale_and_bias_are_put_back_into_their_ranges_after_every_update(model):
    fit(module_of(model, rate=1.0), steps=2)
    scale, bias = model.logit_scale.exp().item(), model.logit_bias.item()
    assert scale == pytest.approx(9, rel=1e-5) or scale == pytest.approx(11, rel=1e-5), "a step of 1 leaves the range"
    assert bias == pytest.approx(-5.5) or bias == pytest.approx(-4.5)


def test_a_parameter_that_gets_no_gradient_stops_the_run_before_its_first_update(model):
    model.unreached = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"2 trainable parameters got no gradient in the first step \(unreached"):
        fit(module_of(model, rate=1e-3), 2, StopBeforeTheUpdate())


def test_a_model_that_learns_everywhere_gets_as_far_as_its_update(model):
    with pytest.raises(Stop):
        fit(module_of(model, rate=1e-3), 2, StopBeforeTheUpdate())
