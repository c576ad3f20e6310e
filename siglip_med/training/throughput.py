"""How fast a run is, and what it waits for: on the bar, in the log lines, in the loggers."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from time import perf_counter
from typing import Any

import lightning.pytorch as pl
import torch
from pydantic import PositiveFloat, PositiveInt
from torch.utils.flop_counter import FlopCounterMode

from siglip_med.models import as_written

RATE, WAIT, MEMORY, MFU = "perf/images_per_second", "perf/input_wait", "perf/peak_memory_gb", "perf/mfu"


class Throughput(pl.Callback):
    """Measures windows of a few steps by the wall clock, without waiting for the device.

    ``perf/images_per_second`` counts the images of all processes, ``perf/input_wait`` is the share of the time in which
    this process waited for a batch, ``perf/peak_memory_gb`` what tensors took of the GPU at most since the run began (a
    run on a CPU has none), in 10^9 bytes, and ``perf/mfu`` the share of the device's peak that the model's
    multiplications made use of (Chowdhery et al. 2022, arXiv 2204.02311). Validations are left out, and so is a
    process's first batch, in which caches are filled.

    Attributes:
        latest: the values of the last window, by name.
    """

    def __init__(self, every_n_steps: PositiveInt = 10, peak_tflops: PositiveFloat | None = None) -> None:
        """Says how long a window is.

        Args:
            every_n_steps: optimizer steps of a window.
            peak_tflops: 10^12 operations per second that one device can do in the run's precision, from its data sheet;
                None: no MFU. The operations of a step are counted in a process's first batch, with what gradient
                checkpointing computes again.
        """
        self.every_n_steps = every_n_steps
        self.peak_tflops = peak_tflops
        self.latest: Mapping[str, float] = {}
        self._since: float | None = None
        self._images, self._batches = 0, 0
        self._waited, self._validating, self._paused = 0.0, 0.0, 0.0
        self._counter = FlopCounterMode(display=False)
        self._counting = ExitStack()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Counts the operations of the first batch: as it is written, since those of a compiled block are not seen."""
        if self._since is None and self.peak_tflops is not None:
            self._counting.enter_context(as_written(pl_module.modules()))
            self._counting.enter_context(self._counter)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends a window where one ends."""
        if self._since is None:
            self._counting.close()
            self._begin(trainer)
            return
        self._images += len(batch.images)
        self._batches += 1
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and step % self.every_n_steps == 0:
            self.latest = self._measured(trainer)
            for logger in trainer.loggers:
                logger.log_metrics(dict(self.latest), step=step - 1)  # the step that is done counts from 0
            self._begin(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stops counting, for whoever continues in this process."""
        self._counting.close()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the clock."""
        self._paused = perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts it again."""
        self._validating += perf_counter() - self._paused

    def _begin(self, trainer: pl.Trainer) -> None:
        self._since, self._images, self._batches, self._validating = perf_counter(), 0, 0, 0.0
        self._waited = _waited(trainer) or 0.0

    def _measured(self, trainer: pl.Trainer) -> dict[str, float]:
        assert self._since is not None
        seconds = perf_counter() - self._since - self._validating
        values = {RATE: self._images * trainer.world_size / seconds}
        if (waited := _waited(trainer)) is not None:
            values[WAIT] = (waited - self._waited) / seconds
        device = trainer.strategy.root_device
        if device.type == "cuda":
            values[MEMORY] = torch.cuda.max_memory_allocated(device) / 1e9
        if self.peak_tflops is not None:
            done = self._counter.get_total_flops() * self._batches
            values[MFU] = done / seconds / (self.peak_tflops * 1e12)
        return values


def latest(trainer: pl.Trainer) -> Mapping[str, float]:
    """What the trainer's `Throughput` measured last; nothing where it has none, or has not measured yet."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by one of Lightning's connectors
    return next((one.latest for one in callbacks if isinstance(one, Throughput)), {})


def described(values: Mapping[str, float]) -> dict[str, str]:
    """The values as a person reads them, by a short name."""
    shown: dict[str, tuple[str, Callable[[float], str]]] = {
        RATE: ("images/s", lambda value: f"{value:.3g}" if value < 100 else f"{value:,.0f}"),
        WAIT: ("waiting for input", "{:.0%}".format),
        MEMORY: ("peak memory", "{:.3g} GB".format),
        MFU: ("MFU", "{:.1%}".format),
    }
    return {label: form(values[name]) for name, (label, form) in shown.items() if name in values}


def _waited(trainer: pl.Trainer) -> float | None:
    """Seconds that the training loader was waited for; None where it keeps no time."""
    found: float | None = getattr(trainer.train_dataloader, "waited", None)
    return found
