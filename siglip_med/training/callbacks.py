"""Small callbacks that watch a run."""

from typing import Any

import lightning.pytorch as pl
import torch
from pydantic import PositiveInt


class GradientNorm(pl.Callback):
    """Logs the L2 norm of the gradient and of the trained parameters before clipping."""

    def __init__(self, every_n_steps: PositiveInt = 10) -> None:
        """Looks once every ``every_n_steps`` optimizer steps."""
        self.every_n_steps = every_n_steps

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Logs ``grad_norm/total`` and ``parameter_norm/total``; a mixed-precision gradient is unscaled first."""
        if trainer.global_step % self.every_n_steps:
            return
        scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if scaler is not None else 1.0
        trained = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        pl_module.log("grad_norm/total", torch.nn.utils.get_total_norm(gradients) / scale)
        pl_module.log("parameter_norm/total", torch.nn.utils.get_total_norm([p.detach() for p in trained]))
