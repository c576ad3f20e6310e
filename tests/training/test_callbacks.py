"""What the small callbacks log and ask for, in a run of a single layer."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader

from siglip_med.training.callbacks import FinishWithValidation, GradientNorm


class Layer(pl.LightningModule):
    """A linear layer that is trained towards zero, and a parameter that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 3)
        self.frozen = torch.nn.Parameter(torch.full((5,), 100.0), requires_grad=False)
        self.validated_at: list[int] = []

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        return self.layer(batch).square().mean()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.loss(batch)

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.validated_at.append(self.trainer.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Record(Logger):
    """Keeps what was logged, by step."""

    name, version = "record", 0

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[int, dict[str, float]] = {}

    def log_hyperparams(self, params) -> None:
        """A test has none."""

    def log_metrics(self, metrics, step) -> None:
        self.steps.setdefault(step, {}).update(metrics)


IMAGES = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))


def fit(callbacks: list[pl.Callback], steps: int, logger: Logger | bool = False, **settings: object) -> Layer:
    module, data = Layer(), DataLoader(IMAGES, batch_size=2)
    pl.Trainer(
        max_steps=steps,
        callbacks=callbacks,
        logger=logger,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    ).fit(module, data, DataLoader(IMAGES[:1]))
    return module


@pytest.mark.parametrize("scaled", [False, True])
def test_the_gradient_norm_is_that_of_the_loss_whatever_the_scaler_and_the_clipping_do(scaled):
    plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))] if scaled else []
    record = Record()
    fit([GradientNorm(every_n_steps=1)], 1, record, plugins=plugins, gradient_clip_val=1e-3)
    expected = Layer()
    expected.loss(IMAGES[:2]).backward()
    weight, bias = expected.layer.weight, expected.layer.bias
    squares = sum(float(value) ** 2 for value in [*weight.grad.flatten(), *bias.grad.flatten()])
    assert record.steps[0]["grad_norm/total"] == pytest.approx(squares**0.5, rel=1e-2 if scaled else 1e-5)
    squares = sum(float(value) ** 2 for value in [*weight.detach().flatten(), *bias.detach().flatten()])
    assert record.steps[0]["parameter_norm/total"] == pytest.approx(squares**0.5, rel=1e-5)


def test_the_gradient_norm_is_logged_every_few_steps():
    record = Record()
    fit([GradientNorm(every_n_steps=2)], 4, record)
    assert [step for step, values in sorted(record.steps.items()) if "grad_norm/total" in values] == [1, 3]


@pytest.mark.parametrize(("finish", "expected"), [(True, [5, 7]), (False, [5])])
def test_a_run_that_ends_inside_an_epoch_is_validated_at_its_last_step(finish, expected):
    assert fit([FinishWithValidation()] if finish else [], steps=7).validated_at == expected


def test_a_run_that_is_counted_in_epochs_is_not_cut_short():
    assert fit([FinishWithValidation()], steps=-1, max_epochs=2).validated_at == [5, 10]
