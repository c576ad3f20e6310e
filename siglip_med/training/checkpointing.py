"""When a run writes checkpoints, which it keeps, and how it stops on a signal.

A checkpoint is written between two optimizer steps, never inside one, and holds the run's position in plain numbers:
epoch, batches of it that are done, optimizer steps. What `normalize_counters` writes of Lightning's own counters is
worked out from these, so a resumed run takes the next step and nothing twice.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from pydantic import PositiveFloat, PositiveInt

from siglip_med.core.errors import UserError
from siglip_med.core.signals import Interruption, Stopped
from siglip_med.models import read_checkpoint, write_checkpoint

POSITION = "siglip_med_position"
"""Entry of a checkpoint: ``epoch``, ``batches`` of it that are done, ``step``, and whether the run is ``finished``."""
BEST, LAST, PREVIOUS, NEXT = "best.ckpt", "last.ckpt", "previous.ckpt", ".next.ckpt"


class SealedCheckpointIO(CheckpointIO):
    """Writes checkpoints whole, with a checksum, and reads them without running what may hide in them."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See `siglip_med.models.write_checkpoint`."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """See `siglip_med.models.read_checkpoint`; tensors come to the CPU."""
        return read_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        """Removes the file; it may be gone already."""
        Path(path).unlink(missing_ok=True)


class Checkpoints(Checkpoint):
    """Keeps the best checkpoint and the last ones.

    Attributes:
        best_score: of the best validation; None before the first.
        best_step: of the best validation; -1 before the first.
        metrics: of the last validation.
        over: training is done already, and `fit` has nothing to do.
        saving_finished: whether the checkpoint that is being written is the one after the last step.
        interruption: tells whether the run should stop; None: it never does.

    ``best.ckpt`` is the one whose validation was best; ties keep the earlier. With ``save_top_k`` above 1 the best k
    are also kept as ``step-<n>.ckpt``. ``last.ckpt`` is written after every validation, every few steps or minutes, at
    the end, and on a signal to stop; the one before it stays as ``previous.ckpt``.
    """

    def __init__(
        self,
        dirpath: str,
        monitor: str,
        mode: Literal["min", "max"],
        save_top_k: Literal[-1] | PositiveInt = 1,
        every_n_steps: PositiveInt | None = None,
        every_n_minutes: PositiveFloat | None = 10.0,
        keep_previous: bool = True,
    ) -> None:
        """Sets the folder and the intervals.

        Args:
            dirpath: the folder.
            monitor: the validation metric that chooses.
            mode: whether less or more of it is better.
            save_top_k: how many of the best are kept; -1 keeps one of every validation.
            every_n_steps: optimizer steps between two writings of ``last.ckpt``; None leaves it to validations and
                minutes.
            every_n_minutes: minutes between two writings of ``last.ckpt``; None leaves it to validations and steps.
            keep_previous: whether the last but one stays too, for the day on which the last is damaged.
        """
        self.folder = Path(dirpath)
        self.monitor, self.mode = monitor, mode
        self.save_top_k = save_top_k
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self.keep_previous = keep_previous
        self.best_score: float | None = None
        self.best_step = -1
        self.kept: list[tuple[float, int]] = []
        self.metrics: dict[str, float] = {}
        self.over = False
        self.saving_finished = False
        self.interruption: Interruption | None = None
        self._saved_step = 0
        self._saved_at = time.monotonic()
        self._due = False

    @property
    def best_model_path(self) -> str:
        """Path of the best checkpoint; empty where there is none."""
        return str(self.folder / BEST) if self.best_score is not None else ""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs of the validations so far, as plain values."""
        return {
            "best_score": self.best_score,
            "best_step": self.best_step,
            "kept": [list(item) for item in self.kept],
            "metrics": self.metrics,
            "monitor": self.monitor,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the best score, unless another metric chooses now."""
        if state_dict["monitor"] == self.monitor:
            self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
            self.kept = [(score, step) for score, step in state_dict["kept"]]
        self.metrics = dict(state_dict["metrics"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run whose training is over ends at once."""
        trainer.should_stop = self.over

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here a signal waits for the end of the step; Lightning has installed handlers of its own meanwhile."""
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        if self.interruption is not None:
            self.interruption.arm()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here a signal ends the run at once."""
        if self.interruption is not None:
            self.interruption.disarm()
            if self.interruption.received is not None:
                raise Stopped(self.interruption.received, trainer.global_step, self.folder.parent)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Writes ``last.ckpt`` if it is due, and stops the run after a signal."""
        if batch_idx % trainer.accumulate_grad_batches or is_trial(trainer):
            return
        signal = self._signal(trainer)
        if trainer.global_step > 0 and (signal is not None or self._is_due(trainer)):
            self._save_last(trainer, pl_module, finished=False)
        if signal is not None:
            raise Stopped(signal, trainer.global_step, self.folder.parent if trainer.global_step else None)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the checkpoint if it is among the best."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or is_trial(trainer):
            return
        self._due = True
        self.metrics = {
            name: float(value) for name, value in trainer.callback_metrics.items() if torch.is_tensor(value)
        }
        if self.monitor not in self.metrics:
            known = ", ".join(sorted(name for name in self.metrics if name.startswith("val/")))
            raise UserError(f"monitor={self.monitor}: the run has no such metric; it has {known or 'none'}")
        score, step = self.metrics[self.monitor], trainer.global_step
        if not math.isfinite(score):
            raise UserError(
                f"monitor={self.monitor} is {score} at step {step}, so no checkpoint can be chosen by it: "
                "take another metric, or a validation split in which it is defined"
            )
        self._keep(trainer, pl_module, score, step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the last checkpoint of the run."""
        if not is_trial(trainer):
            self._save_last(trainer, pl_module, finished=True)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        steps, minutes = trainer.global_step - self._saved_step, (time.monotonic() - self._saved_at) / 60
        due = self.every_n_steps is not None and steps >= self.every_n_steps
        if self.every_n_minutes is not None:
            # one clock decides for all processes, or some would wait for the others in the next collective
            due |= bool(trainer.strategy.broadcast(minutes >= self.every_n_minutes))
        return self._due or (due and steps > 0)

    def _signal(self, trainer: pl.Trainer) -> int | None:
        mine = 0 if self.interruption is None else self.interruption.received or 0
        if trainer.world_size > 1:
            flag = torch.tensor(mine, device=trainer.strategy.root_device)
            mine = int(trainer.strategy.reduce(flag, reduce_op="max"))
        return mine or None

    def _better(self, score: float, other: float) -> bool:
        return score < other if self.mode == "min" else score > other

    def _keep(self, trainer: pl.Trainer, module: pl.LightningModule, score: float, step: int) -> None:
        is_best = self.best_score is None or self._better(score, self.best_score)
        kept = [item for item in self.kept if item[1] != step]
        kept = sorted([*kept, (score, step)], key=lambda item: (-item[0] if self.mode == "max" else item[0], item[1]))
        if self.save_top_k > 0:
            kept = kept[: self.save_top_k]
        dropped = [old for _, old in self.kept if old not in {new for _, new in kept}]
        self.kept = kept
        if is_best:
            self.best_score, self.best_step = score, step
            self._save(trainer, module, self.folder / BEST, finished=False)
        if self.save_top_k != 1:
            if (score, step) in kept:
                self._save(trainer, module, self.folder / f"step-{step}.ckpt", finished=False)
            if trainer.is_global_zero:
                for old in dropped:
                    (self.folder / f"step-{old}.ckpt").unlink(missing_ok=True)

    def _save_last(self, trainer: pl.Trainer, module: pl.LightningModule, finished: bool) -> None:
        for logger in trainer.loggers:
            logger.save()  # TensorBoard's flushes: a killed run keeps what its checkpoint has seen
        last, following = self.folder / LAST, self.folder / NEXT
        self._save(trainer, module, following, finished)
        if trainer.is_global_zero:
            # Each move is atomic, and between them the run has its previous checkpoint and its next.
            if last.exists() and self.keep_previous:
                last.replace(self.folder / PREVIOUS)
            following.replace(last)
        trainer.strategy.barrier("last checkpoint written")
        self._saved_step, self._saved_at, self._due = trainer.global_step, time.monotonic(), False

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule, path: Path, finished: bool) -> None:
        self.saving_finished = finished
        trainer.save_checkpoint(path, weights_only=False)


def is_trial(trainer: Any) -> bool:
    """Whether the run is a ``fast_dev_run``, which keeps nothing."""
    return bool(trainer.fast_dev_run)


def normalize_counters(checkpoint: dict[str, Any], trainer: pl.Trainer, finished: bool) -> None:
    """Brings Lightning's counters to what they mean between two steps, and adds the `POSITION`.

    Lightning dumps its loops in the middle of whatever they do; restored as they are, it validates again, logs a step
    later, or starts the epoch's data anew.

    Args:
        checkpoint: Lightning's, just dumped; changed in place.
        trainer: that dumped it, between two optimizer steps.
        finished: whether training is over: Lightning has then counted the epoch as done, even if it is not.
    """
    loop = checkpoint["loops"]["fit_loop"]
    batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
    done = batches["current"]["completed"]
    epoch = epochs["current"]["processed"] - (1 if finished else 0)
    if done >= trainer.num_training_batches:
        epoch, done = epoch + 1, 0
    inside = done > 0
    for counts in epochs.values():
        counts |= {"ready": epoch + 1, "started": epoch + 1 if inside else epoch, "processed": epoch}
        counts["completed"] = epoch
    total = batches["total"]["completed"]
    batches["total"] |= dict.fromkeys(batches["total"], total)
    batches["current"] |= dict.fromkeys(batches["current"], done)
    batches["is_last_batch"] = False
    validation = loop["epoch_loop.val_loop.batch_progress"]
    for name in ("total", "current"):
        validation[name] |= dict.fromkeys(validation[name], 0)
    validation["is_last_batch"] = False
    step = checkpoint["global_step"]
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = step
    checkpoint["epoch"] = epoch
    checkpoint[POSITION] = {"epoch": epoch, "batches": done, "step": step, "finished": finished}


def position(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The position of a checkpoint's run.

    Raises:
        UserError: it has none.
    """
    found = checkpoint.get(POSITION)
    if not (isinstance(found, dict) and set(found) == {"epoch", "batches", "step", "finished"}):
        raise UserError("the checkpoint does not hold the position of its run: it cannot be resumed")
    return found
