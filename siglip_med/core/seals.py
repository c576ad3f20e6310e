"""Checksums of what this package writes, so that altered bytes are an error and never another number.

A sealed file ends with the SHA-256 of all before it. In a zip archive (a checkpoint) the seal is the archive's comment,
behind the data of a NumPy file it is never looked at: other readers take both as they are. A folder has its sums in
``SHA256SUMS``, which ``sha256sum -c`` reads too.
"""

import hashlib
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from siglip_med.core.errors import UserError
from siglip_med.core.files import write_text, write_whole

SUMS = "SHA256SUMS"
_MARK = b"siglip-med sha256 "
_LENGTH = len(_MARK) + 64
_BLOCK = 1 << 22


def write_sealed(path: str | Path, write: Callable[[Any], object], archive: bool = False) -> None:
    """Writes a file whole, as `write_whole`, with its seal.

    Args:
        path: the file.
        write: gets something with ``write``; it cannot seek.
        archive: whether it is a zip archive, which then must end with an empty comment.

    Raises:
        UserError: as `write_whole`.
    """

    def sealed(file: IO[bytes]) -> None:
        sealing = _Sealing(file, held=2 if archive else 0)
        try:
            write(sealing)
        except RuntimeError as error:
            # torch.save continues after a write that failed, and reports what that did to its archive
            raise sealing.failure or error from None
        sealing.finish(_LENGTH.to_bytes(2, "little") if archive else b"")

    write_whole(path, sealed)


def check_sealed(path: str | Path) -> str | None:
    """What is wrong with a sealed file; None where nothing is.

    Returns:
        The end of a sentence that starts with the file's name.
    """
    path = Path(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        rest = path.stat().st_size - _LENGTH
        if rest < 0:
            return "is truncated"
        while rest > 0:
            block = file.read(min(rest, _BLOCK))
            if not block:
                return "is truncated"
            digest.update(block)
            rest -= len(block)
        seal = file.read()
    if not seal.startswith(_MARK):
        return "is truncated, or was not written by this program: its checksum is missing"
    return None if seal == _MARK + digest.hexdigest().encode() else "is damaged: its checksum does not fit"


class _Sealing(io.RawIOBase):
    """Passes on what is written, but for the last bytes, and adds it up."""

    def __init__(self, file: IO[bytes], held: int) -> None:
        self._file, self._held, self._tail, self._digest = file, held, b"", hashlib.sha256()
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._held:
            joined = self._tail + bytes(view)
            out, self._tail = joined[: -self._held], joined[-self._held :]
        else:
            out = bytes(view)
        try:
            self._file.write(out)
        except OSError as error:
            self.failure = error
            raise
        self._digest.update(out)
        return len(view)

    def finish(self, ending: bytes) -> None:
        if self._held and self._tail != bytes(self._held):
            raise ValueError("the archive has a comment already")
        self._file.write(ending)
        self._digest.update(ending)
        self._file.write(_MARK + self._digest.hexdigest().encode())


def write_sums(folder: Path) -> None:
    """Writes ``SHA256SUMS`` for every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    write_text(folder / SUMS, "".join(lines))


def check_sums(folder: Path) -> None:
    """Compares a folder with its ``SHA256SUMS``, if it has one; files that it does not list are not looked at.

    Raises:
        UserError: a file is missing or altered, or the list itself cannot be read.
    """
    listed = folder / SUMS
    if not listed.is_file():
        return
    for number, line in enumerate(listed.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64 or not name:
            raise UserError(f"{listed}: line {number} is no checksum; export the folder again, or remove {SUMS}")
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing, but {SUMS} lists it: copy or export the folder again")
        if sha256(path) != digest:
            raise UserError(f"{path} is damaged: its checksum in {SUMS} does not fit; copy or export the folder again")


def check_sidecar(path: Path) -> None:
    """Compares a file with ``<name>.sha256`` beside it, if there is one (``sha256sum FILE > FILE.sha256``).

    Raises:
        UserError: they do not fit.
    """
    beside = path.with_name(path.name + ".sha256")
    if (
        beside.is_file()
        and path.is_file()
        and beside.read_text(encoding="utf-8", errors="replace").split()[:1] != [sha256(path)]
    ):
        raise UserError(f"{path} is not the file that {beside.name} was made of: restore it, or remove {beside.name}")


def write_sidecar(path: Path) -> None:
    """Writes ``<name>.sha256`` beside a file, as ``sha256sum`` does."""
    write_text(path.with_name(path.name + ".sha256"), f"{sha256(path)}  {path.name}\n")


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc(data: Any) -> int:
    """A quick checksum, for pieces of a large cache that are checked when they are first used."""
    return zlib.crc32(data)
