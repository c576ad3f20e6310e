"""Features of a frozen tower, one record per photograph, found by the photograph's content: nothing is computed twice.

A store only ever grows. A batch is written and on the disk before the index that names it is, so a run that is killed
leaves an index that is true; the next run writes over what it does not mention. A record has a checksum; one that is
damaged is computed again.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from siglip_med.core.errors import UserError
from siglip_med.core.files import named, write_json
from siglip_med.core.outside import say
from siglip_med.core.seals import crc

ENTRY = np.dtype([("key", "V16"), ("sum", "<u4")])


class FeatureStore:
    """Arrays of one shape by 16-byte keys, below a folder of its own; several processes may share it.

    Args:
        folder: made on the first write; may be deleted while no run uses it.
        dtype: of the values.
    """

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        self.folder, self.dtype = folder, dtype

    @property
    def values_file(self) -> Path:
        """All records, one behind the other."""
        return self.folder / "values.bin"

    def find(self, keys: np.ndarray) -> np.ndarray:
        """``[N]`` int64 records of ``[N]`` keys (dtype ``V16``), -1 where there is none, or a damaged one."""
        entries, _ = self._entries()
        place = {entry.tobytes(): number for number, entry in enumerate(entries["key"])}  # a later one is the better
        records = np.array([place.get(key.tobytes(), -1) for key in keys], dtype=np.int64)
        if not len(place):
            return records
        values, damaged = self.values(), 0
        for record in np.unique(records[records >= 0]):
            if crc(np.ascontiguousarray(values[record])) != entries["sum"][record]:
                records[records == record] = -1
                damaged += 1
        if damaged:
            say(f"{self.values_file}: {damaged:,} of {len(entries):,} records are damaged: computing them again")
        return records

    def values(self) -> np.ndarray:
        """``[R, …]`` all records, mapped into memory."""
        entries, shape = self._entries()
        return np.memmap(self.values_file, dtype=self.dtype, mode="r", shape=(len(entries), *shape))

    def _entries(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """The index as far as values are there for it, and the shape of a record."""
        try:
            shape = tuple(int(size) for size in json.loads((self.folder / "shape.json").read_bytes()))
            index = (self.folder / "index.bin").read_bytes()
            held = self.values_file.stat().st_size // self._bytes(shape)
        except (FileNotFoundError, ValueError, TypeError):
            return np.empty(0, dtype=ENTRY), ()
        return np.frombuffer(index, dtype=ENTRY, count=min(len(index) // ENTRY.itemsize, held)), shape

    def _bytes(self, shape: tuple[int, ...]) -> int:
        return max(int(np.prod(shape)) * self.dtype.itemsize, 1)

    @contextmanager
    def writing(self) -> Iterator["Writer"]:
        """The store for one process alone; others wait for it, and say so."""
        with named(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                say("features: another process computes them; waiting for it")
                lock.acquire()
            try:
                for cut in self.folder.glob(".*.part"):  # of a killed process
                    cut.unlink()
                # unbuffered: what a killed process wrote is in the file, and nothing is written after it
                with self.values_file.open("ab", 0) as values, (self.folder / "index.bin").open("ab", 0) as index:
                    yield Writer(self, values, index)
            finally:
                lock.release()


class Writer:
    """Appends batches of records to a `FeatureStore`."""

    def __init__(self, store: FeatureStore, values: BinaryIO, index: BinaryIO) -> None:
        self._store, self._values, self._index = store, values, index
        entries, self._shape = store._entries()
        values.truncate(len(entries) * store._bytes(self._shape) if self._shape else 0)
        index.truncate(len(entries) * ENTRY.itemsize)

    def append(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Adds ``[B]`` keys with ``[B, …]`` values.

        Raises:
            UserError: the values are of another shape than those that are there.
        """
        if not self._shape:
            self._shape = values.shape[1:]
            write_json(self._store.folder / "shape.json", list(self._shape), indent=None)
        if values.shape[1:] != self._shape:
            raise UserError(f"{self._store.folder}: holds records of {self._shape}; remove it, and it is made again")
        entries = np.empty(len(keys), dtype=ENTRY)
        values = np.ascontiguousarray(values, dtype=self._store.dtype)
        entries["key"], entries["sum"] = keys, [crc(value) for value in values]
        for file, content in ((self._values, values.tobytes()), (self._index, entries.tobytes())):
            _write_all(file, content)
            os.fsync(file.fileno())


def _write_all(file: BinaryIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def keys_of(digests: Sequence[str]) -> np.ndarray:
    """``[N]`` keys of contents, given by 32 hexadecimal digits."""
    return np.array([bytes.fromhex(digest) for digest in digests], dtype="V16")
