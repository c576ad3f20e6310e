"""Writes the photographs of a set into a folder once, block by block, so that an export that was cut goes on.

What is done stands in ``.export``: the table's rows of each finished block, and ``progress.json``, which is replaced
when a block's photographs are on the disk. A killed export leaves a state that is true; the same command reads on at
the row behind it, and the result has the same bytes as that of one that ran through.
"""

import io
import json
import logging
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import numpy as np
from filelock import FileLock
from PIL import Image

from siglip_med.core.errors import UserError
from siglip_med.core.files import write_bytes, write_csv, write_json
from siglip_med.core.progress import tracked
from siglip_med.data.images import BadImageError, shrink
from siglip_med.sources.huggingface_rows import check_protocols, said

logger = logging.getLogger(__name__)

QUALITY = 95
"""Of scaled copies, which are JPEG without chroma subsampling."""

BLOCK = 512
"""Rows between two records of what is done: what a killed export reads again at most."""

RESERVE = 1 << 29
"""Bytes of the disk that an export leaves free."""

_WORKERS = 8
_STAMP = "export.json"

Work = TypeVar("Work")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Item:
    """One row, before its photograph is written.

    Attributes:
        shard: 0-based, and the row's 1-based number in it.
        row: see above.
        where: file and row, for messages.
        stem: path of the photograph below the root, without ending.
        image: ``{"path", "bytes"}`` of the encoded photograph; None where the row has none.
        cells: the columns of the table behind that of the path.
    """

    shard: int
    row: int
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
class _Kept:
    """A photograph on the disk: path below the root, what was done (see `in_words`), bytes."""

    path: str
    kind: str
    size: int


@dataclass
class _Progress:
    """What is done.

    Attributes:
        settings: of the export.
        digest: of the files that are read.
        blocks: how many are finished.
        rows: done of each shard, as far as one is begun.
        counts: see `in_words`.
    """

    settings: dict[str, Any]
    digest: str
    blocks: int = 0
    rows: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


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

    @property
    def _folder(self) -> Path:
        return self.root / ".export"

    def finished(self) -> dict[str, Any] | None:
        """The finished export that the root holds, ``state`` and ``counts`` with it; None where there is none.

        Raises:
            UserError: it is one with other settings.
        """
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
        """Writes every photograph, ``labels.csv``, ``shards.csv`` and the stamp; goes on where one was cut.

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
        done = self._begin(digest)
        block: list[tuple[str, ...]] = []
        with ThreadPoolExecutor(_WORKERS) as pool:
            items = self._items(shards, done)
            stored = _in_order(pool, partial(_keep, self.root, self.settings["side"]), items)
            left = None if total is None else max(total - done.counts.get("rows", 0), 0)
            for item, kept in tracked(stored, "exporting", "rows", total=left):
                block.append((kept.path, *item.cells))
                done.rows += [0] * (item.shard + 1 - len(done.rows))
                done.rows[item.shard] = item.row
                more = Counter({"rows": 1, kept.kind: 1, "bytes": kept.size})
                done.counts = dict(Counter(done.counts) + more)
                if len(block) == BLOCK:
                    self._record(done, block)
                    block = []
        if block:
            self._record(done, block)
        if not done.rows:
            raise UserError(f"{self.settings['dataset']}: holds no row; check data.source.dataset and split")
        self._finish(("image", *header), shards, done, state)
        return done.counts

    def _begin(self, digest: str) -> _Progress:
        path = self._folder / "progress.json"
        for left_over in (self.root / "images").rglob(f".{'[0-9a-f]' * 16}.part"):  # of a killed export
            left_over.unlink()
        if not path.is_file():
            return _Progress(self.settings, digest)
        done = _Progress(**json.loads(path.read_text(encoding="utf-8")))
        if done.settings != self.settings:
            raise UserError(
                f"{self.root}: holds the beginning of another export; give another data.source.root, or remove it"
            )
        if done.digest != digest:
            raise UserError(
                f"{self.root}: was begun before {self.settings['dataset']} changed; remove the folder, or give another "
                "data.source.root, to read the data set as it is now"
            )
        logger.info("%s: goes on behind row %s", self.root, f"{done.counts['rows']:,}")
        return done

    def _items(self, shards: Sequence[Shard], done: _Progress) -> Iterator[Item]:
        first = max(len(done.rows) - 1, 0)
        for number, shard in enumerate(shards[first:], start=first):
            for item in shard.items(done.rows[number] if number < len(done.rows) else 0):
                self._check_space()
                yield item

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.root).free
        if free < RESERVE:
            raise UserError(
                f"{self.root}: {free / 1e9:.2f} GB of its disk are free, and an export leaves {RESERVE / 1e9:.2f}; "
                "free some space and run the same command to go on"
            )

    def _record(self, done: _Progress, block: Sequence[Sequence[str]]) -> None:
        done.blocks += 1
        write_json(self._folder / f"{done.blocks:07d}.json", block, indent=None)
        write_json(self._folder / "progress.json", asdict(done))

    def _finish(self, header: Sequence[str], shards: Sequence[Shard], done: _Progress, state: str) -> None:
        def rows() -> Iterator[Sequence[str]]:
            for number in range(1, done.blocks + 1):
                yield from json.loads((self._folder / f"{number:07d}.json").read_text(encoding="utf-8"))

        counts = [*done.rows, *[0] * (len(shards) - len(done.rows))]
        table = ((shard.split, shard.name, count) for shard, count in zip(shards, counts, strict=True))
        write_csv(self.root / "shards.csv", ("split", "shard", "rows"), table)
        write_csv(self.root / "labels.csv", header, rows())
        write_json(self.root / _STAMP, self.settings | {"state": state, "counts": done.counts})
        shutil.rmtree(self._folder)


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


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Work], Result], items: Iterable[Work]
) -> Iterator[tuple[Work, Result]]:
    """Each item with its result, in order; a few are worked on while the next are read."""
    waiting: deque[tuple[Work, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(work, item)))
        if len(waiting) > 2 * _WORKERS:
            first, future = waiting.popleft()
            yield first, future.result()
    for item, future in waiting:
        yield item, future.result()


def _keep(root: Path, side: int | None, item: Item) -> _Kept:
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
                data, suffix = _jpeg(pixels), ".jpg"
    path = item.stem.with_name(item.stem.name + suffix)
    write_bytes(root / path, data)
    return _Kept(path.as_posix(), kind, len(data))


def _jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def _encoded(item: Item) -> bytes:
    """The bytes of a row's photograph, fetched where the row holds its address alone; empty where it has none."""
    image = item.image or {}
    data: bytes | None = image.get("bytes")
    path: str | None = image.get("path")
    if data is not None or not path:
        return data or b""
    check_protocols(path, item.where)
    try:
        with fsspec.open(path, "rb") as file:
            fetched: bytes = file.read()
            return fetched
    except Exception as error:  # whatever a file system raises
        raise UserError(
            f"{item.where}: {path} cannot be read ({said(error)}); run the same command to go on, or leave the row out"
        ) from error
