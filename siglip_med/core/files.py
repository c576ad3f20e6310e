"""Writes files whole: under a temporary name beside their own, moved into place when every byte is on the disk."""

import csv
import hashlib
import io
import itertools
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from siglip_med.core.errors import UserError, one_line
from siglip_med.core.outside import csv_cell


def write_whole(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file that readers see complete or not at all, even where the machine stops halfway.

    The permissions are those of any new file (the umask decides).

    Args:
        path: the file; its folder is made if it is absent.
        write: gets the open binary file.

    Raises:
        UserError: the folder cannot be written, or the disk is full; the line names the path, and an earlier file
            of that name is as it was.
    """
    path = Path(path)
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # short, so that a long name does not become too long
        temporary = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes bytes; see `write_whole`."""
    write_whole(path, lambda file: file.write(content))


def write_text(path: str | Path, text: str) -> None:
    """Writes text as UTF-8, line ends as they are, what is no character as ``\\udcff``; see `write_whole`."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def append_text(path: str | Path, text: str) -> None:
    """Appends text to a log, which is on the disk when this returns; what a killed process appended may be truncated.

    Raises:
        UserError: as `write_whole`.
    """
    with named(Path(path)), Path(path).open("a", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | Path, content: Any, indent: int | None = 2) -> None:
    """Writes plain Python values as JSON; NaN is refused, since no other reader takes it. See `write_whole`."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False))


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table as CSV, text like a formula as `csv_cell` makes it; see `write_whole`."""

    def write(file: IO[bytes]) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        csv.writer(text, lineterminator="\n").writerows(map(csv_cell, row) for row in itertools.chain([header], rows))
        text.detach()

    write_whole(path, write)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder that appears under its name when the block ends, and not at all if the block raises.

    What a killed process left of it goes when it is made again.

    Args:
        path: of a folder that does not exist yet; folders above it are made.

    Yields:
        An empty folder beside it, to be filled.

    Raises:
        UserError: it cannot be made, or another process is making it.
    """
    path = Path(path)
    place = path.with_name(f".part-{hashlib.sha256(path.name.encode()).hexdigest()[:16]}")
    with named(path):
        place.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place / "lock", timeout=0):
            folder = place / "folder"
            shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
            folder.mkdir()
            try:
                yield folder
                allowed = stat.S_IMODE(folder.stat().st_mode)
                for item in folder.rglob("*"):  # some libraries write what their owner alone may read
                    item.chmod(allowed if item.is_dir() else allowed & 0o666)
                folder.rename(path)
            finally:
                shutil.rmtree(place, ignore_errors=True)
    except Timeout:
        raise UserError(f"{path}: another process is writing it; give another folder, or wait") from None


class Mapped:
    """Watches a file that is mapped into memory: to read behind its end would kill the process without a word.

    A file that is removed, or replaced by another one, is none of its concern: what is mapped stays.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("rb")
        self._size = self._bytes()

    def __reduce__(self) -> Any:
        return Mapped, (self._path,)

    def check(self) -> None:
        """Before each use.

        Raises:
            UserError: the file is shorter than it was.
        """
        if (now := self._bytes()) < self._size:
            raise UserError(
                f"{self._path} was {self._size:,} bytes long and has {now:,} now: something has cut it during the run; "
                "remove it while no run uses it, and it is made again"
            )

    def _bytes(self) -> int:
        return os.fstat(self._file.fileno()).st_size


@contextmanager
def named(path: Path) -> Iterator[None]:
    """An error of the file system as one line that names the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(f"{path}: cannot be written ({reason}); free some space, or give another folder") from error
