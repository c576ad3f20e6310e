"""The one error that is written for a person."""

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from siglip_med.core.outside import printable

if TYPE_CHECKING:  # it takes long to import
    from pydantic import ValidationError

EXIT_STATUS = 2
"""Exit status of a run that stopped because something the user gave is wrong."""

WORKER_PATIENCE = 600.0
"""Seconds that a batch is waited for: processes that hang say nothing of themselves."""
SHARED_MEMORY = Path("/dev/shm")
"""By it processes hand over batches; Docker gives it 64 MB."""
_FILES = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENAMETOOLONG", "EFBIG", "EIO", "ESTALE", "EMFILE", "ENFILE"),
        *("ENOMEM", "ENOTDIR", "EISDIR", "ENOENT", "EBUSY", "ENXIO"),
    )
    if hasattr(errno, name)
}
_NO_MEMORY = "(?i)(allocate|out of|enough|insufficient) memory|failed to map segment|can't start new thread"
_OF_FILES = r"\(os error \d+\)|^unable to .*<.*\(\d+\)$"
"""As libraries in Rust (safetensors, tokenizers) and PyTorch's shared memory report files."""


class UserError(Exception):
    """Something the user gave is wrong: one line that says what, where (file, row, key) and what to do.

    Commands print the message alone and exit with ``exit_status``; every other exception is a bug and keeps its
    traceback.
    """

    exit_status = EXIT_STATUS


class Faults:
    """Collects what is wrong with the rows of a table, so that a person mends all of it at once."""

    def __init__(self) -> None:
        self.found: list[UserError] = []

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Keeps a `UserError` (of several, each) for `stop`."""
        try:
            yield
        except UserError as error:
            self.found += error.every if isinstance(error, SeveralErrors) else [error]

    def stop(self) -> None:
        """Raises what was found: nothing, the one error, or `SeveralErrors`."""
        if len(self.found) > 1:
            raise SeveralErrors(self.found)
        if self.found:
            raise self.found[0]


class SeveralErrors(UserError):
    """Several things are wrong: its line is the first one, and how many others there are; ``every`` has each."""

    def __init__(self, every: Sequence[UserError]) -> None:
        super().__init__(f"{every[0]} (and {len(every) - 1:,} more such faults, which siglip-med-check lists)")
        self.every = list(every)


def one_line(error: object, most: int | None = None) -> str:
    """What a library said, on one line (of at most so many characters); its type where it said nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def of_the_machine(error: BaseException) -> UserError | None:
    """An error of files or memory, Python's or a library's, as one line; None for any other: it is a bug."""
    text = one_line(error, 300)
    of_its_own = re.search(r"in DataLoader worker process .*\[Errno (\d+)\] ([^\n]*)", str(error), re.DOTALL)
    if of_its_own is not None:  # PyTorch hands on the words of an error alone
        return of_the_machine(OSError(int(of_its_own[1]), of_its_own[2]))
    if isinstance(error, OSError) and error.errno in _FILES:
        advice = "see to the disk or the folder"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            advice = "allow more (ulimit -n 4096), or lower data.num_workers"
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "a file"
        return UserError(f"{where}: {error.strerror}; {advice}")
    if re.search(_OF_FILES, text):
        return UserError(f"a file cannot be read or written: {text}")
    if isinstance(error, MemoryError) or re.search(_NO_MEMORY, text):
        return UserError(f"there is not enough memory ({text}): lower batch sizes and data.num_workers, or free some")
    worker = of_a_worker(error)
    if worker is not None:
        return UserError(worker)
    before = error.__cause__ or error.__context__  # clearing up after a lack of memory fails in many ways
    line = None if before is None else of_the_machine(before)
    return line if line is not None and "not enough memory" in str(line) else None


def of_a_worker(error: BaseException) -> str | None:
    """What happened to a process that makes batches, and what to do; None for any other error."""
    text = str(error)
    if "DataLoader timed out" in text:
        return (
            f"the processes that make batches gave none for {WORKER_PATIENCE:.0f} s: see whether their disk answers, "
            "or set data.num_workers=0"
        )
    if "DataLoader worker" not in text:
        return None
    if "Bus error" in text or (SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free <= 64 * 2**20):
        return (
            f"the shared memory by which processes hand over batches, {SHARED_MEMORY}, is full or too small: make it "
            "larger (docker run --shm-size=8g), or lower data.num_workers (0 needs none) or data.batch_size"
        )
    return (
        "a process that makes batches died (out of memory, or killed from outside): lower data.num_workers or "
        "data.batch_size"
    )


def first_fault(error: "ValidationError") -> str:
    """Where the first fault of a validation lies, and what it is: ``calibration.bias: input should be …``."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"


def fail(error: UserError) -> NoReturn:
    """Prints the error's one line to standard error and exits with its status."""
    print(f"error: {printable(error)}", file=sys.stderr)
    raise SystemExit(error.exit_status)
