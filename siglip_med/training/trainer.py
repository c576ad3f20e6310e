"""The Lightning Trainer, with the precision that fits the device."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from pydantic import NonNegativeFloat, PositiveInt

Precision = Literal["auto", "16-mixed", "bf16-mixed", "32-true"]


def build_trainer(
    callbacks: Mapping[str, Callback | None] | None,
    logger: Mapping[str, Logger | None] | None,
    default_root_dir: str,
    precision: Precision = "auto",
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto",
    devices: PositiveInt | list[int] | Literal["auto"] = "auto",
    strategy: str = "auto",
    gradient_clip_val: NonNegativeFloat | None = 1.0,
    **settings: Any,
) -> pl.Trainer:
    """Builds the Trainer.

    Args:
        callbacks: by name; a None switches one off.
        logger: by name; a None switches one off.
        default_root_dir: the run folder.
        precision: ``auto`` is 16-mixed on CUDA and 32-true elsewhere; losses are float32 in every case.
        accelerator: as in Lightning.
        devices: how many, which, or all of them (``auto``; one on a CPU).
        strategy: as in Lightning, e.g. ``ddp``.
        gradient_clip_val: largest norm of the gradient; None does not clip.
        **settings: any other argument of `lightning.pytorch.Trainer`.
    """
    cuda = torch.cuda.is_available() and accelerator in {"auto", "gpu"}
    if precision == "auto":
        precision = "16-mixed" if cuda else "32-true"
    if devices == "auto" and not cuda:
        devices = 1
    return pl.Trainer(
        callbacks=[callback for callback in (callbacks or {}).values() if callback is not None],
        logger=[item for item in (logger or {}).values() if item is not None],
        default_root_dir=Path(default_root_dir),
        precision=precision,
        accelerator=accelerator,
        devices=devices,
        strategy=strategy,
        gradient_clip_val=gradient_clip_val,
        **settings,
    )
