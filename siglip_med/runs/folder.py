"""The folder of a run: made for one run alone, locked while it runs, and named so that it can be found again."""

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from siglip_med.core.errors import UserError
from siglip_med.core.files import write_json
from siglip_med.core.outside import say
from siglip_med.models import DamagedCheckpoint, read_checkpoint
from siglip_med.training.checkpointing import BEST, LAST, NEXT, PREVIOUS

RECORD = "run.json"
"""What a run writes first: its settings, when it began, and whether it is finished."""
CHECKPOINTS = "checkpoints"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the record of a new run: with its content or not at all, whenever the process is killed.

    A record that is empty or torn, of a process that died before there was this promise, is taken over, and said.

    Raises:
        UserError: the folder holds a run already, or cannot be written.
    """
    aside = folder / f".{RECORD}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(aside, {"started": time.time(), "finished": False, "settings": settings})
        try:
            _link(aside, folder / RECORD)
        except FileExistsError:
            _take_over(aside, folder)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); give another with paths.log_dir=…") from error


def _link(aside: Path, record: Path) -> None:
    try:
        os.link(aside, record)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links: whoever makes the file has the folder, and fills it at once.
        os.close(os.open(record, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        aside.replace(record)


def _take_over(aside: Path, folder: Path) -> None:
    if read_record(folder) is not None:
        raise UserError(
            f"{folder} holds a run already: give another folder with hydra.run.dir=…, or resume that run: "
            f"resume={folder}"
        )
    with locked(folder):  # refused where a process that lives has the folder
        aside.replace(folder / RECORD)
    say(f"{folder}/{RECORD} was not whole: its process died in its first moment; the folder is taken over")


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a run; None where there is none, or it is not whole (the run was killed in its first moment)."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    whole = isinstance(record, dict) and isinstance(record.get("settings"), dict)
    return record if whole and isinstance(record.get("started"), float) else None


def mark(folder: Path, finished: bool, settings: Mapping[str, Any]) -> None:
    """Records whether the run is finished, and with which settings it is resumed.

    Raises:
        UserError: the folder cannot be written.
    """
    started = (read_record(folder) or {}).get("started", time.time())
    write_json(folder / RECORD, {"started": started, "finished": finished, "settings": settings})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second process out of a run folder; the lock of a killed process is gone with it.

    Raises:
        UserError: another process runs in it, or it cannot be written.
    """
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder}: another process is running this run; wait for it, or stop it first") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); give another with paths.log_dir=…") from error
    try:
        yield
    finally:
        lock.release()


def run_folder(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to: the folder above ``checkpoints/``, or the checkpoint's own."""
    parent = checkpoint.resolve().parent
    return parent.parent if parent.name == CHECKPOINTS else parent


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that a run is resumed from: the last that is whole.

    One that is damaged is named on the screen, and the one before it taken.

    Returns:
        None where the run has written none yet.

    Raises:
        UserError: there are checkpoints, and none is whole.
    """
    present = [folder / CHECKPOINTS / name for name in (LAST, NEXT, PREVIOUS)]
    present = [path for path in present if path.is_file()]
    for position, path in enumerate(present):
        try:
            read_checkpoint(path)
        except DamagedCheckpoint as error:
            if path.name.startswith("."):
                continue  # it was being written when the run was killed
            if position + 1 == len(present):
                raise
            say(f"{error}; resuming from {present[position + 1]}")
        else:
            return path
    return None


def others(checkpoint: Path) -> str:
    """Another checkpoint to resume from, to put behind a message that a checkpoint is missing or damaged."""
    names = [name for name in (LAST, PREVIOUS, BEST) if name != checkpoint.name]
    for path in (checkpoint.parent / name for name in names):
        try:
            read_checkpoint(path)
        except UserError:
            continue
        return f"; there is {path}"
    return ""
