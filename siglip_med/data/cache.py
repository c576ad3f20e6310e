"""Every photograph decoded once: squares of pixels in one memory-mapped file that all workers share.

The store only ever grows. Pixels are appended under a lock and flushed before the index that points at them is
replaced in one step, so a killed run leaves an index that is true (the next run writes over what it does not mention),
and readers never wait. An image is found by path, size and modification time; where these are new, by the hash of
its content, so that moved or copied files are not decoded again.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from rich.progress import Progress

from siglip_med.core.errors import UserError
from siglip_med.core.files import Mapped, write_json
from siglip_med.core.outside import Console
from siglip_med.core.seals import crc
from siglip_med.data.images import BadImageError, decode, read_bytes

FORMAT = 4
"""Raise it whenever the same file would decode to other pixels: old stores are then left alone and rebuilt."""

CHUNK = 512
"""Images between two writes of the index: what a killed run loses at most."""


@dataclass
class _Index:
    """What the store holds: content hash -> record, path -> [bytes, mtime in ns, content hash], CRC-32 of records."""

    records: dict[str, int] = field(default_factory=dict)
    files: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    sums: list[int] = field(default_factory=list)

    def find(self, paths: Sequence[Path]) -> np.ndarray:
        """``[N]`` int64 records of N files, -1 where a file is new or changed."""
        records = np.full(len(paths), -1, dtype=np.int64)
        for place, path in enumerate(paths):
            known = self.files.get(str(path))
            if known is not None and known[:2] == stamp(path):
                records[place] = self.records[known[2]]
        return records


class PixelCache:
    """A store of ``[side, side, 3]`` uint8 squares below ``folder``; safe to share between runs and machines.

    Args:
        folder: Where stores live; each side length, pixel limit and bit depth gets its own subfolder. May be deleted
            whenever no run uses it.
        side: Side of the squares in pixels.
        max_pixels: Width times height above which a file is refused; see `siglip_med.data.images.decode`.
        bits: In use of files with 16 bits per channel; see there.
    """

    def __init__(self, folder: Path, side: int, max_pixels: int, bits: int = 16) -> None:
        self.folder = folder / f"pixels-{side}-v{FORMAT}-{max_pixels}-{bits}"
        self.side, self.max_pixels, self.bits = side, max_pixels, bits
        self._pixel_file = self.folder / "pixels.bin"
        self._item = side * side * 3
        self._pixels: np.ndarray | None = None
        self._mapped: Mapped | None = None
        self._sums = np.empty(0, dtype=np.int64)
        self._checked = np.empty(0, dtype=bool)

    def add(self, paths: Sequence[Path], workers: int = 1) -> tuple[np.ndarray, dict[int, str]]:
        """Decodes what the store does not hold yet.

        Args:
            paths: N image files.
            workers: Threads that decode (the decoders work outside Python's lock).

        Returns:
            ``[N]`` int64 records for `read`, -1 where there is no image; and the reason for each of those positions.

        Raises:
            UserError: the folder cannot be written, or the disk is too full.
        """
        self._pixels = None
        try:
            records = self._read_index().find(paths)
            if (records >= 0).all():
                return records, {}
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock"):
                return self._fill(paths, max(workers, 1))
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot write the image cache ({error.strerror}); "
                "free some space or set data.cache_dir to another folder"
            ) from error

    def read(self, records: np.ndarray) -> np.ndarray:
        """``[B, side, side, 3]`` uint8 copy of the squares at ``records`` (``[B]``); each is checked on first use.

        Raises:
            UserError: one is no longer what was decoded, or the file was cut.
        """
        view = self._view()
        assert self._mapped is not None
        self._mapped.check()
        squares = view[records]
        for record, square in zip(records, squares, strict=True):
            if not self._checked[record]:
                if crc(square) != self._sums[record]:
                    raise UserError(
                        f"{self._pixel_file}: record {record} is damaged (its checksum does not fit); remove "
                        f"{self.folder} while no run uses it, and it is made again"
                    )
                self._checked[record] = True
        return squares

    def digests(self, records: np.ndarray) -> list[str]:
        """The content of each of ``[N]`` records, as 32 hexadecimal digits."""
        of = {record: digest for digest, record in self._read_index().records.items()}
        return [of[record] for record in records.tolist()]

    def __getstate__(self) -> dict[str, Any]:
        # A worker opens the file itself: pickling a memory map would copy all of it.
        return self.__dict__ | {"_pixels": None, "_mapped": None}

    def _view(self) -> np.ndarray:
        if self._pixels is None:
            try:
                self._mapped = Mapped(self._pixel_file)
            except FileNotFoundError as error:
                raise UserError(f"{self._pixel_file} is gone: resume the run, and it is made again") from error
            count = self._pixel_file.stat().st_size // self._item
            shape = (count, self.side, self.side, 3)
            self._pixels = np.memmap(self._pixel_file, dtype=np.uint8, mode="r", shape=shape)
            self._sums = np.array(self._read_index().sums, dtype=np.int64)
            self._checked = np.zeros(len(self._sums), dtype=bool)
        return self._pixels

    def _read_index(self) -> _Index:
        """The index, or an empty one where there is none that fits the pixel file."""
        try:
            raw = json.loads((self.folder / "index.json").read_bytes())
            files = {path: (size, mtime, digest) for path, (size, mtime, digest) in raw["files"].items()}
            index = _Index(raw["records"], files, raw["sums"])
            fits = sorted(index.records.values()) == list(range(len(index.sums)))
            fits &= all(type(value) is int for value in index.sums)
            fits &= all(digest in index.records for _, _, digest in files.values())
            fits &= self._pixel_file.stat().st_size >= len(index.records) * self._item
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):  # a file may say anything
            return _Index()
        return index if fits else _Index()

    def _fill(self, paths: Sequence[Path], workers: int) -> tuple[np.ndarray, dict[int, str]]:
        index = self._read_index()  # again: another run may have filled it while this one waited for the lock
        if not index.records:
            self._pixel_file.unlink(missing_ok=True)  # a new file: whoever still reads the old one keeps it
        records = index.find(paths)
        missing = np.flatnonzero(records < 0)
        self._check_space(len(missing))
        reasons: dict[int, str] = {}
        console = Console(stderr=True)
        self._pixel_file.touch()
        with (
            self._pixel_file.open("r+b") as file,
            ThreadPoolExecutor(workers) as pool,
            Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # Pillow's remarks on metadata; what matters is raised
            bar = progress.add_task("decoding images", total=len(missing))
            file.seek(len(index.records) * self._item)
            for chunk in np.split(missing, range(CHUNK, len(missing), CHUNK)):
                results = pool.map(lambda i: self._load(index, paths[i]), chunk)
                for position, result in zip(chunk.tolist(), results, strict=True):
                    if isinstance(result, str):
                        reasons[position] = result
                    else:
                        found, digest, square = result
                        if digest not in index.records and square is not None:
                            file.write(square.tobytes())
                            index.sums.append(crc(square))
                            index.records[digest] = len(index.records)
                        index.files[str(paths[position])] = (*found, digest)
                        records[position] = index.records[digest]
                    progress.advance(bar)
                file.flush()
                os.fsync(file.fileno())
                write_json(self.folder / "index.json", vars(index), indent=None)
        return records, reasons

    def _check_space(self, count: int) -> None:
        needed, free = count * self._item, shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{self.folder}: the image cache needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
                "free some space or set data.cache_dir to another folder"
            )

    def _load(self, index: _Index, path: Path) -> tuple[tuple[int, int], str, np.ndarray | None] | str:
        """An image's stamp, hash and, if that is new, its square; or the reason why there is none."""
        try:
            found = stamp(path)  # before reading: a file that changes meanwhile is read again next time
            data = read_bytes(path)
            digest = hashlib.blake2b(data, digest_size=16).hexdigest()
            square = None if digest in index.records else decode(data, self.side, self.max_pixels, self.bits)
        except BadImageError as error:
            return str(error)
        return "changed while it was read" if found is None else (found, digest, square)


def stamp(path: Path) -> tuple[int, int] | None:
    """Bytes and modification time in ns; None where there is no such file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns
