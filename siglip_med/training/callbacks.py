"""Small callbacks that watch a run."""

from typing import Any

import lightning.pytorch as pl
import torch
from pydantic import PositiveInt


def keeps_step(trainer: pl.Trainer) -> bool:
    """Whether Lightning hands the values of the current training step to the loggers: every n-th step and the last.

    What is logged on any other step is thrown away, and logging a value costs more than many a loss term.
    """
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by one of Lightning's connectors
    step = trainer.global_step + 1
    return every > 0 and (step % every == 0 or trainer.should_stop or 0 < trainer.max_steps <= step)


class GradientNorm(pl.Callback):
    """Logs the L2 norm of the gradient and of the trained parameters before clipping."""

    def __init__(self, every_n_steps: PositiveInt = 10) -> None:
        """Looks at every ``every_n_steps``-th optimizer step; with the trainer's ``log_every_n_steps`` it is kept."""
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
        pl_module.log("grad_norm/total", torch.nn.utils.get_total_norm(gradients))
        pl_module.log("parameter_norm/total", torch.nn.utils.get_total_norm([p.detach() for p in trained]))


class FinishWithValidation(pl.Callback):
    """Validates after the last step too, when ``max_steps`` ends a run inside an epoch: no training goes unjudged."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Asks the trainer to stop, which makes it validate first."""
        if trainer.max_steps > 0 and trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True
