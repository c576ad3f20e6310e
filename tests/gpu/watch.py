"""What a run on a device computes with, noted from inside."""

from typing import Any

import lightning.pytorch as pl


class Watch(pl.Callback):
    """Notes the types of a step's numbers, and the size of its gradient."""

    def __init__(self) -> None:
        self.tower: set[Any] = set()
        self.losses: set[Any] = set()
        self.gradients: list[float] = []

    def on_fit_start(self, trainer, pl_module):
        block = pl_module.model.towers()["vision"].encoder.layers[0]
        block.mlp.fc1.register_forward_hook(lambda module, inputs, output: self.tower.add(output.dtype))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        terms = pl_module.last_terms.values()
        self.losses |= {pl_module.last_loss.dtype, *(value.dtype for value in terms)}
        self.gradients += [p.grad.abs().max().item() for p in pl_module.parameters() if p.grad is not None]
