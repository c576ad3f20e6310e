"""What makes a GPU faster without changing what a run is: compiled blocks, another memory layout."""

from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import nn

from siglip_med.core.errors import UserError
from siglip_med.models import encoder_layers

Backend = Literal["inductor", "aot_eager", "eager"]


class CompileBlocks(pl.Callback):
    """Compiles the encoder blocks of both towers for the training steps (`torch.compile`).

    Block by block, since the blocks of a tower are alike: it takes a fraction of the time that a whole tower takes.
    They are compiled in place, so every parameter keeps its name: checkpoints, resuming, evaluation and export do not
    know of it. Validation and everything after training run as written.
    """

    def __init__(self, backend: Backend = "inductor") -> None:
        """Names the compiler: ``inductor`` makes kernels; the others find out whether a model can be compiled."""
        self.backend = backend
        self._calls: dict[nn.Module, Any] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the blocks; each is compiled when it is first called.

        Raises:
            UserError: a tower does not name its blocks as those of the transformers library do; or gradient
                checkpointing would compute dropout again, with other masks than those of the forward pass.
        """
        for name, tower in pl_module.model.towers().items():  # type: ignore[union-attr,operator]
            blocks = encoder_layers(tower)
            if blocks is None:
                raise UserError(
                    f"trainer.compile: the {name} tower, {type(tower).__name__}, has no list of encoder blocks; "
                    "leave it out"
                )
            for block in blocks:
                if getattr(block, "gradient_checkpointing", False) and _drops(block):
                    raise UserError(
                        "trainer.compile and model.gradient_checkpointing: a compiled block draws other dropout masks "
                        "when it is computed again; set model.adaptation.dropout=0, or leave one of them out"
                    )
                block.compile(backend=self.backend)
                self._calls[block] = block._compiled_call_impl
        self._switch(False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here the blocks run compiled."""
        self._switch(True)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation runs as written."""
        self._switch(False)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Back to training."""
        self._switch(not trainer.sanity_checking)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the model as it was."""
        self._switch(False)

    def _switch(self, on: bool) -> None:
        for block, call in self._calls.items():
            block._compiled_call_impl = call if on else None


def _drops(block: nn.Module) -> bool:
    """Whether a block has dropout, as a module or as a number that its forward reads."""
    rates = [getattr(module, "p" if isinstance(module, nn.Dropout) else "dropout", 0.0) for module in block.modules()]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


class ChannelsLast(pl.Callback):
    """Keeps the weights of a convolutional vision tower with their channels last, as tensor cores read them fastest."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Changes the memory layout of the weights; a convolution returns its output in the layout of its weights.

        Raises:
            UserError: the tower has one convolution at most, so that nothing would be gained.
        """
        tower = pl_module.model.vision_tower()  # type: ignore[union-attr,operator]
        if sum(isinstance(module, nn.Conv2d) for module in tower.modules()) < 2:
            raise UserError(
                f"trainer.channels_last: {type(tower).__name__} has no convolutions but the one that cuts patches, "
                "so nothing would be gained; leave it out"
            )
        tower.to(memory_format=torch.channels_last)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Back to the layout that files are written in."""
        pl_module.model.vision_tower().to(memory_format=torch.contiguous_format)  # type: ignore[union-attr,operator]
