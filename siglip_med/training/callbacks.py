"""Small callbacks that watch a run."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from pydantic import PositiveInt
from torch.nn.utils import get_total_norm


def keeps_step(trainer: pl.Trainer) -> bool:
    """Whether Lightning hands the values of the current training step to the loggers: every n-th step and the last.

    What is logged on any other step is thrown away, and logging a value costs more than many a loss term.
    """
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by one of Lightning's connectors
    step = trainer.global_step + 1
    return every > 0 and (step % every == 0 or trainer.should_stop or 0 < trainer.max_steps <= step)


def log_now(trainer: pl.Trainer, values: Mapping[str, torch.Tensor]) -> None:
    """Hands values of this step to the loggers, and of no other: Lightning's own ``log`` repeats the last ones.

    Args:
        trainer: inside a step.
        values: by name, 0-dim.
    """
    for logger in trainer.loggers:
        logger.log_metrics({name: float(value) for name, value in values.items()}, step=trainer.global_step)


class GradientNorm(pl.Callback):
    """Logs the L2 norm of the gradient and of the trained parameters before clipping."""

    def __init__(self, every_n_steps: PositiveInt = 10) -> None:
        """Looks at every ``every_n_steps``-th optimizer step."""
        self.every_n_steps = every_n_steps

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Logs ``grad_norm/total`` and ``parameter_norm/total``.

        Lightning has unscaled a mixed-precision gradient by now, and clips it only after this.
        """
        if (trainer.global_step + 1) % self.every_n_steps:
            return
        trained = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        values = {
            "grad_norm/total": get_total_norm(gradients),
            "parameter_norm/total": get_total_norm([p.detach() for p in trained]),
        }
        log_now(trainer, values)


class FinishWithValidation(pl.Callback):
    """Validates after the last step of a run too, whatever the interval: no training ends without a validation."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Asks the trainer to stop, which makes it validate first."""
        steps = 0 < trainer.max_steps <= trainer.global_step
        epochs = trainer.max_epochs or -1
        last_batch = batch_idx + 1 >= trainer.num_training_batches
        if steps or (0 < epochs <= trainer.current_epoch + 1 and last_batch):
            trainer.should_stop = True
            if trainer.check_val_every_n_epoch is not None:
                trainer.check_val_every_n_epoch = 1  # this epoch, whichever it is
