"""The Lightning Trainer, with the precision that fits the device."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import StrategyRegistry
from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from siglip_med.core.errors import UserError, one_line
from siglip_med.training.acceleration import Backend, ChannelsLast, CompileBlocks
from siglip_med.training.checkpointing import SealedCheckpointIO

Precision = Literal["auto", "16-mixed", "bf16-mixed", "32-true"]


def _known_strategy(name: str) -> str:
    if name.startswith(("fsdp", "deepspeed")):
        raise ValueError("it shards the weights, which checkpoints need whole; use ddp")
    known = ["auto", *(one for one in StrategyRegistry.available_strategies() if not one.startswith(("fsdp", "deep")))]
    if name not in known:
        raise ValueError(f"there is no such strategy; there is {', '.join(known)}")
    return name


Strategy = Annotated[str, AfterValidator(_known_strategy)]
Length = Annotated[int, Field(ge=-1, le=10**9)]
"""Of a run; -1 is without end."""
Batches = Annotated[int, Field(ge=0, le=10**9)] | Annotated[float, Field(gt=0, le=1)]
"""How many batches of an epoch, or which share of them."""
Interval = Annotated[int, Field(ge=1, le=10**9)] | Annotated[float, Field(gt=0, le=1)]


def build_trainer(
    callbacks: Mapping[str, Callback | None] | None,
    logger: Mapping[str, Logger | None] | None,
    default_root_dir: str,
    precision: Precision = "auto",
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto",
    devices: Annotated[int, Field(ge=1, le=1024)] | list[NonNegativeInt] | Literal["auto"] = "auto",
    num_nodes: Annotated[int, Field(ge=1, le=10_000)] = 1,
    strategy: Strategy = "auto",
    gradient_clip_val: NonNegativeFloat | None = 1.0,
    gradient_clip_algorithm: Literal["norm", "value"] | None = None,
    max_steps: Length = 2500,
    max_epochs: Length | None = -1,
    min_steps: NonNegativeInt | None = None,
    min_epochs: NonNegativeInt | None = None,
    accumulate_grad_batches: Annotated[int, Field(ge=1, le=100_000)] = 1,
    val_check_interval: Interval | None = None,
    check_val_every_n_epoch: PositiveInt | None = 1,
    num_sanity_val_steps: Annotated[int, Field(ge=-1)] = 0,
    limit_train_batches: Batches | None = None,
    limit_val_batches: Batches | None = None,
    overfit_batches: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)] = 0,
    fast_dev_run: bool | NonNegativeInt = False,
    log_every_n_steps: PositiveInt = 10,
    enable_model_summary: bool = False,
    enable_progress_bar: bool = True,
    deterministic: bool | Literal["warn"] = "warn",
    benchmark: bool | None = None,
    detect_anomaly: bool = False,
    profiler: Literal["simple", "advanced", "pytorch"] | None = None,
    sync_batchnorm: bool = False,
    matmul_precision: Literal["highest", "high", "medium"] = "highest",
    compile: bool = False,
    compile_backend: Backend = "inductor",
    channels_last: bool = False,
) -> pl.Trainer:
    """Builds the Trainer; what is not explained here is as in `lightning.pytorch.Trainer`.

    Args:
        callbacks: by name; a None switches one off.
        logger: by name; a None switches one off.
        default_root_dir: the run folder.
        precision: ``auto`` is 16-mixed on CUDA and 32-true elsewhere; losses are float32 in every case.
        accelerator: as in Lightning.
        devices: how many, which, or all of them (``auto``; one on a CPU).
        num_nodes: machines.
        strategy: as in Lightning, e.g. ``ddp``; those that shard weights are refused.
        gradient_clip_val: largest norm of the gradient; None does not clip.
        gradient_clip_algorithm: of that norm, or of each value.
        max_steps: optimizer steps of the run; -1: as many as ``max_epochs`` has.
        max_epochs: epochs of the run; -1: as many as ``max_steps`` needs.
        min_steps: early stopping waits for that many optimizer steps.
        min_epochs: early stopping waits for that many epochs.
        accumulate_grad_batches: batches of one optimizer step.
        val_check_interval: batches, or share of an epoch, between two validations.
        check_val_every_n_epoch: epochs between two validations; None: ``val_check_interval`` counts over epochs.
        num_sanity_val_steps: validation batches before training.
        limit_train_batches: batches of an epoch, or share of it.
        limit_val_batches: batches of a validation, or share of it.
        overfit_batches: the same few batches again and again.
        fast_dev_run: one batch of everything (or as many as the number), and no checkpoint.
        log_every_n_steps: optimizer steps between two lines of the loggers.
        enable_model_summary: Lightning's own table of parameters.
        enable_progress_bar: False leaves out the progress bar among the callbacks too.
        deterministic: as in Lightning.
        benchmark: as in Lightning.
        detect_anomaly: as in Lightning; slow.
        profiler: prints where the time went.
        sync_batchnorm: as in Lightning.
        matmul_precision: of products of float32 matrices, for the whole process and also in the losses: with ``high`` a
            GPU takes TF32, 10 bits of mantissa in place of 23; see `torch.set_float32_matmul_precision`.
        compile: compiles the encoder blocks for training steps; see `CompileBlocks`.
        compile_backend: who compiles.
        channels_last: see `ChannelsLast`.

    Raises:
        UserError: Lightning refuses the combination, e.g. devices that are not there.
    """
    cuda = torch.cuda.is_available() and accelerator in {"auto", "gpu"}
    if precision == "auto":
        precision = "16-mixed" if cuda else "32-true"
    if devices == "auto" and not cuda:
        devices = 1
    watching = [callback for callback in (callbacks or {}).values() if callback is not None]
    if not enable_progress_bar:
        watching = [callback for callback in watching if not isinstance(callback, ProgressBar)]
    if compile:
        watching.append(CompileBlocks(compile_backend))
    if channels_last:
        watching.append(ChannelsLast())
    torch.set_float32_matmul_precision(matmul_precision)
    arguments: dict[str, Any] = {
        "num_nodes": num_nodes,
        "gradient_clip_algorithm": gradient_clip_algorithm,
        "max_steps": max_steps,
        "max_epochs": max_epochs,
        "min_steps": min_steps,
        "min_epochs": min_epochs,
        "accumulate_grad_batches": accumulate_grad_batches,
        "val_check_interval": val_check_interval,
        "check_val_every_n_epoch": check_val_every_n_epoch,
        "num_sanity_val_steps": num_sanity_val_steps,
        "limit_train_batches": limit_train_batches,
        "limit_val_batches": limit_val_batches,
        "overfit_batches": overfit_batches,
        "fast_dev_run": fast_dev_run,
        "log_every_n_steps": log_every_n_steps,
        "enable_model_summary": enable_model_summary,
        "enable_progress_bar": enable_progress_bar,
        "deterministic": deterministic,
        "benchmark": benchmark,
        "detect_anomaly": detect_anomaly,
        "profiler": profiler,
        "sync_batchnorm": sync_batchnorm,
    }
    try:
        return pl.Trainer(
            callbacks=watching,
            logger=[item for item in (logger or {}).values() if item is not None],
            default_root_dir=Path(default_root_dir),
            precision=precision,
            accelerator=accelerator,
            devices=devices,
            strategy=strategy,
            gradient_clip_val=gradient_clip_val,
            plugins=[SealedCheckpointIO()],
            # Lightning's own callback would be added where there is none of ours.
            enable_checkpointing=any(isinstance(callback, pl.callbacks.Checkpoint) for callback in watching),
            **arguments,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"trainer: {one_line(error)}") from error
