"""One run from its first moment to its last: its folder, signals, logs, and the checkpoint it is resumed from."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lightning.pytorch as pl
import torch

from siglip_med.core.config import shipped_targets, targets
from siglip_med.core.errors import UserError, of_a_worker
from siglip_med.core.signals import interruptible
from siglip_med.core.trust import check_trusted, vouched
from siglip_med.data.labeled import LabeledData
from siglip_med.runs.folder import RECORD, claim, locked, mark
from siglip_med.runs.resume import ResumePoint, check_same, deciding, find_run, find_same, is_extended
from siglip_med.runs.settings import RunSettings
from siglip_med.training.agreement import Agreement
from siglip_med.training.checkpointing import LAST, NEXT, Checkpoints, is_trial
from siglip_med.training.loggers import take_back


def checkpoints_of(trainer: pl.Trainer) -> Checkpoints | None:
    """The callback that keeps checkpoints; None where a run keeps none."""
    callback = trainer.checkpoint_callback
    return callback if isinstance(callback, Checkpoints) and not is_trial(trainer) else None


def resume_point(settings: RunSettings) -> ResumePoint | None:
    """The run that the settings resume, known to be theirs; None for a new one.

    Raises:
        UserError: there is none, it is damaged, or the settings are not its own.
    """
    if settings.resume is None:
        return None
    now = settings.model_dump()
    if settings.resume == "auto":
        return find_same(now, Path(settings.paths.output_dir), neighbors=False)
    point = find_run(settings.resume)
    allowed = shipped_targets() | targets(now) | set(vouched(settings.trust))
    check_trusted(point.settings, allowed, "", str(point.checkpoint or point.folder))
    check_same(point, now)
    return point


@contextmanager
def session(settings: RunSettings, trainer: pl.Trainer, point: ResumePoint | None) -> Iterator[Callable[[], None]]:
    """Catches signals, and keeps the run folder for this run alone.

    Gives a function to call when everything that can be wrong with the settings and the data has been looked at: it
    makes the run folder, or takes over that of the resumed run.

    Raises:
        UserError: the folder belongs to another run, or cannot be written; or a process that makes batches died.
    """
    folder = Path(settings.paths.output_dir)
    main, plain = trainer.is_global_zero, settings.model_dump(mode="json")
    with interruptible() as interruption, ExitStack() as held:
        if (checkpoints := checkpoints_of(trainer)) is not None:
            checkpoints.interruption = interruption
        if main and point is not None:
            held.enter_context(locked(folder))

        def begin() -> None:
            if not main:
                return
            if point is None:
                claim(folder, plain)
                held.enter_context(locked(folder))
            for cut in (*folder.rglob(".*.part"), *folder.glob(f".{RECORD}.*")):  # what a killed process was writing
                cut.unlink(missing_ok=True)
            if point is not None:
                if point.checkpoint is not None and point.checkpoint.name == NEXT:
                    point.checkpoint.replace(_resumed_from(point.checkpoint))  # a kill stood between its two moves
                mark(folder, False, plain)

        try:
            yield begin
        except RuntimeError as error:
            if (what := of_a_worker(error)) is not None:
                raise UserError(f"{what}, then resume={folder}") from error
            if trainer.world_size == 1 or not re.search("(?i)by peer|remote process|broken pipe|nccl|gloo", str(error)):
                raise
            raise UserError(f"another process of this run has ended: see what it said, then resume={folder}") from error
        if main:
            mark(folder, True, plain)


def fit(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: LabeledData,
    point: ResumePoint | None,
    settings: RunSettings,
) -> None:
    """Trains from the start, or from where the run stood."""
    path = None if point is None or point.checkpoint is None else _resumed_from(point.checkpoint)
    if point is not None:
        if trainer.is_global_zero:
            take_back(trainer.loggers, point.step)
        checkpoints = checkpoints_of(trainer)
        if checkpoints is not None:
            checkpoints.over = point.finished and not is_extended(point.settings, settings.model_dump())
    facts = {path: str(value) for path, value in deciding(settings.model_dump(mode="json")).items()}
    facts |= {"the step to begin at": str(0 if point is None else point.step), "the split": data.split.hash[:16]}
    agreement = Agreement(facts | {"the data table": data.table.digest()})
    trainer.callbacks.append(agreement)  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)


def _resumed_from(checkpoint: Path) -> Path:
    """A checkpoint under the name that it has once the run has begun again."""
    return checkpoint.with_name(LAST) if checkpoint.name == NEXT else checkpoint


def last_metrics(trainer: pl.Trainer) -> dict[str, float]:
    """The metrics of the last validation, also of a run whose training was over before this process began."""
    checkpoints = checkpoints_of(trainer)
    if checkpoints is not None and checkpoints.metrics:
        return dict(checkpoints.metrics)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if torch.is_tensor(value)}
