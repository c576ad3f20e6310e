"""Writes the photographs of a set into a folder once, block by block, so that an interrupted export is resumed.

Progress is kept in ``.export.jsonl``: the settings, then a line for each row, appended when a block's photographs
are on the disk. A killed export leaves a log that is true; the same command continues at the row behind it, and the
result has the same bytes as that of one that ran through.
"""

import io
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock
from PIL import Image

from siglip_med.core.errors import UserError
from siglip_med.core.files import append_text, write_bytes, write_csv, write_json
from siglip_med.core.progress import tracked
from siglip_med.data.images import BadImageError, shrink
from siglip_med.sources.huggingface_rows import check_protocols, in_one_line

logger = logging.getLogger(__name__)

QUALITY = 95
"""Of scaled copies, which are JPEG without chroma subsampling."""

BLOCK = 512
"""Rows between two records of what is done: what a killed export reads again at most."""

RESERVE = 1 << 29
"""Bytes of the disk that an export leaves free."""

_WORKERS = 8
_STAMP, _LOG = "export.json", ".export.jsonl"

_Line = list[Any]
"""Of the log: 0-based shard, what was done (see `in_words`), bytes, path below the root, further cells of the table."""


@dataclass(frozen=True)
class Item:
    """One row, before its photograph is written.

    Attributes:
        shard: 0-based.
        where: file and row, for messages.
        stem: path of the photograph below the root, without ending.
        image: ``{"path", "bytes"}`` of the encoded photograph; None where the row has none.
        cells: the columns of the table behind that of the path.
    """

    shard: int
    where: str
    stem: Path
    image: Mapping[str, Any] | None
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Shard:
    """One piece of a set: its split, the file that it is, and its rows behind the first ``k``."""

    split: str
    name: str
    items: Callable[[int], Iterator[Item]]


@dataclass(frozen=True)
class Export:
    """An export into ``root``.

    Args:
        root: folder to fill.
        settings: what makes this export another than others; ``side`` is the shorter side to scale to, or None.
        defaults: of settings that an older export does not mention.
    """

    root: Path
    settings: dict[str, Any]
    defaults: dict[str, Any]

    def finished(self) -> dict[str, Any] | None:
        """The finished export of the root, with ``state`` and ``counts``, or None; a UserError for other settings."""
        stamp = self.root / _STAMP
        if not stamp.is_file():
            return None
        before: dict[str, Any] = json.loads(stamp.read_text(encoding="utf-8"))
        if {name: before.get(name, self.defaults.get(name)) for name in self.settings} != self.settings:
            raise UserError(f"{self.root}: holds another export; give another data.source.root")
        return before

    def lock(self) -> FileLock:
        """Held by the one process that exports; others wait and find the export finished."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / ".export.lock")

    def write(
        self, header: Sequence[str], shards: Sequence[Shard], digest: str, state: str, total: int | None
    ) -> dict[str, int]:
        """Writes every photograph, ``labels.csv``, ``shards.csv`` and the stamp; resumes an interrupted export.

        Args:
            header: columns of the table behind ``image``.
            shards: in order.
            digest: of the files that the shards are.
            state: of the data set, put into the stamp.
            total: rows, where that is known.

        Returns:
            The counts, see `in_words`.

        Raises:
            UserError: the root holds a part of another export, a shard cannot be read, or the disk is nearly full.
        """
        log, done = self.root / _LOG, self._done(digest)
        left = None if total is None else max(total - done.total(), 0)
        with ThreadPoolExecutor(_WORKERS) as pool:
            lines = tracked(self._kept(pool, shards, done), "exporting", "rows", total=left)
            while block := list(islice(lines, BLOCK)):
                first = [] if log.exists() else [[self.settings, digest]]
                append_text(log, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in first + block))
        if not log.exists():
            raise UserError(f"{self.settings['dataset']}: holds no row; check data.source.dataset and split")
        rows, counts = Counter[int](), Counter[str]()
        for shard, kind, size, *_ in self._lines():
            rows[shard] += 1
            counts.update({"rows": 1, kind: 1, "bytes": size})
        table = ((shard.split, shard.name, rows[number]) for number, shard in enumerate(shards))
        write_csv(self.root / "shards.csv", ("split", "shard", "rows"), table)
        write_csv(self.root / "labels.csv", ("image", *header), (cells for _, _, _, *cells in self._lines()))
        write_json(self.root / _STAMP, self.settings | {"state": state, "counts": dict(counts)})
        log.unlink()
        return dict(counts)

    def _lines(self) -> Iterator[_Line]:
        with (self.root / _LOG).open(encoding="utf-8") as file:
            next(file)
            yield from map(json.loads, file)

    def _done(self, digest: str) -> Counter[int]:
        """How many rows of each shard are done; what else a killed export left is removed."""
        for left_over in (self.root / "images").rglob(f".{'[0-9a-f]' * 16}.part"):
            left_over.unlink()
        log = self.root / _LOG
        data = log.read_bytes() if log.is_file() else b""
        if data.count(b"\n") < 2:
            log.unlink(missing_ok=True)
            return Counter()
        os.truncate(log, data.rfind(b"\n") + 1)  # a truncated line
        settings, before = json.loads(data.partition(b"\n")[0])
        if settings != self.settings:
            raise UserError(
                f"{self.root}: holds the beginning of another export; give another data.source.root, or remove it"
            )
        if before != digest:
            raise UserError(
                f"{self.root}: was begun before {self.settings['dataset']} changed; remove the folder, or give another "
                "data.source.root, to read the data set as it is now"
            )
        done = Counter(shard for shard, *_ in self._lines())
        logger.info("%s: resumes behind row %s", self.root, f"{done.total():,}")
        return done

    def _kept(self, pool: ThreadPoolExecutor, shards: Sequence[Shard], done: Counter[int]) -> Iterator[_Line]:
        """Writes the photographs that are not done, in order; some are worked on while the next are read."""
        first = max(done, default=0)
        items = (item for number in range(first, len(shards)) for item in shards[number].items(done[number]))
        before: Iterable[_Line] = ()
        while chunk := list(islice(items, _WORKERS)):
            self._check_space()
            now = pool.map(partial(_keep, self.root, self.settings["side"]), chunk)
            yield from before
            before = now
        yield from before

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.root).free
        if free < RESERVE:
            raise UserError(
                f"{self.root}: {free / 1e9:.2f} GB of its disk are free, and an export leaves {RESERVE / 1e9:.2f}; "
                "free some space and run the same command to resume"
            )


def in_words(counts: Mapping[str, int], side: int | None) -> str:
    """What an export did, in a sentence for the screen and for the run's files.

    Args:
        counts: ``rows``; ``bytes`` kept; of the rows, how many photographs were ``scaled``, were ``smaller`` than
            that, were ``undecodable``, were kept ``as_stored`` where nothing is scaled, and ``without_image``.
        side: the shorter side that was scaled to.
    """
    parts = [
        f"{counts['rows']:,} rows were exported, which keeps {counts.get('bytes', 0) / 1e6:,.1f} MB of photographs"
    ]
    if side is not None:
        parts.append(
            f"{counts.get('scaled', 0):,} are copies with a shorter side of {side} pixels (JPEG, quality {QUALITY}), "
            f"{counts.get('smaller', 0):,} are no larger than that and kept as they are"
        )
    if counts.get("undecodable"):
        parts.append(f"{counts['undecodable']:,} cannot be decoded and are kept as they are")
    if counts.get("without_image"):
        parts.append(f"{counts['without_image']:,} rows have no image, and an empty file in its place")
    return "; ".join(parts)


def _keep(root: Path, side: int | None, item: Item) -> _Line:
    """Writes one photograph: scaled, or as it is where it cannot be or need not be."""
    data = _encoded(item)
    suffix = Path((item.image or {}).get("path") or "").suffix.lower() or ".img"
    kind = "as_stored"
    if not data:
        kind = "without_image"
    elif side is not None:
        try:
            pixels = shrink(data, side)
        except BadImageError:
            kind = "undecodable"
        else:
            kind = "smaller" if pixels is None else "scaled"
            if pixels is not None:
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY, subsampling=0)
                data, suffix = file.getvalue(), ".jpg"
    path = item.stem.with_name(item.stem.name + suffix)
    write_bytes(root / path, data)
    return [item.shard, kind, len(data), path.as_posix(), *item.cells]


def _encoded(item: Item) -> bytes:
    """The bytes of a row's photograph, fetched where the row holds its address alone; empty where it has none."""
    image = item.image or {}
    data: bytes | None = image.get("bytes")
    path: str | None = image.get("path")
    if data is not None or not path:
        return data or b""
    check_protocols(path, item.where)
    advice = "; run the same command to resume, or leave the row out"
    with in_one_line(f"{item.where}: {path} cannot be read", advice), fsspec.open(path, "rb") as file:
        fetched: bytes = file.read()
    return fetched
