"""A loss or gradient that is not finite: logged with terms, coefficients and images, then the run stops or skips."""

from collections.abc import Mapping
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.utils import get_total_norm

from siglip_med.core.errors import UserError
from siglip_med.core.outside import say
from siglip_med.data.batch import Batch

_SHOWN = 3


class FiniteGuard(pl.Callback):
    """Looks at the loss and the gradient of every optimizer step before it is taken.

    Attributes:
        skipped: steps left out so far, and in a row.
    """

    def __init__(self, policy: Literal["stop", "skip_step"] = "stop", limit: PositiveInt = 10) -> None:
        """Says what to do.

        Args:
            policy: ``stop`` ends the run; ``skip_step`` leaves the weights as they were before the step, logs it, and
                continues.
            limit: of skipped steps in a row; one more ends the run.
        """
        self.policy, self.limit = policy, limit
        self.skipped = {"all": 0, "in_a_row": 0}
        self._batch: Batch | None = None

    def state_dict(self) -> dict[str, Any]:
        """The count, for a run that is resumed."""
        return dict(self.skipped)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the count."""
        self.skipped = dict(state_dict)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the batch, to name its images."""
        self._batch = batch

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Stops or skips; a gradient scaler's own overflows are left to it."""
        module: Any = pl_module
        loss_is_finite = finite = torch.isfinite(module.last_loss)
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            trained = (parameter for group in optimizer.param_groups for parameter in group["params"])  # few of many
            gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
            finite = finite & torch.isfinite(get_total_norm(gradients))
        if bool(finite):  # the one place where the step waits for the device
            self.skipped["in_a_row"] = 0
            return
        wrong = "the gradient is not finite" if bool(loss_is_finite) else f"the loss is {float(module.last_loss)}"
        message = f"{wrong} at step {trainer.global_step}: {explanation(trainer, module, self._batch)}"
        self.skipped = {name: count + 1 for name, count in self.skipped.items()}
        if self.policy == "stop" or self.skipped["in_a_row"] > self.limit:
            many = f" ({self.limit} steps in a row were skipped already)" if self.policy == "skip_step" else ""
            raise UserError(f"{message}{many}; {_cure(self._batch)}")
        for parameter in module.parameters():
            parameter.grad = None
        if trainer.is_global_zero:
            say(f"{message}; the step is skipped, {self.skipped['all']} so far")


def explanation(trainer: Any, module: Any, batch: Batch | None) -> str:
    """The terms, the coefficients and the images of a step, and whether the images were finite."""
    parts = [f"terms {_values(module.last_terms)}", f"coefficients {_values(module.coefficients)}"]
    if batch is not None:
        finite = torch.isfinite(batch.images).flatten(1).all(dim=1)
        bad = batch.index[~finite].tolist()
        names = _names(trainer, bad or batch.index.tolist())
        parts.append(f"images {names}" + (": not finite themselves" if bad else ", all of them finite"))
    return "; ".join(parts)


def _cure(batch: Batch | None) -> str:
    if batch is not None and not bool(torch.isfinite(batch.images).all()):
        return "repair or leave out these images, or try without augmentation: augmentation=null"
    return (
        "lower optimizer.learning_rate, train with trainer.precision=32-true, or leave such steps out: "
        "callbacks.finite.policy=skip_step"
    )


def _values(values: Mapping[str, float | Tensor]) -> str:
    return ", ".join(f"{name} {float(value):.4g}" for name, value in values.items()) or "none"


def _names(trainer: Any, rows: list[int]) -> str:
    table = getattr(trainer.datamodule, "table", None)
    names = [str(row) if table is None else str(table.frame["image"].iloc[row]) for row in rows[:_SHOWN]]
    return ", ".join(names) + (f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")
