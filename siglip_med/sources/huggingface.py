"""Any image data set in the format of Hugging Face `datasets`, local, from the hub, or streamed shard by shard."""

import glob
import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from siglip_med.core.errors import UserError
from siglip_med.data.images import MIN_SIDE
from siglip_med.data.table import ImageTable
from siglip_med.sources.base import FolderSource
from siglip_med.sources.columns import Column
from siglip_med.sources.csv_file import CsvSource
from siglip_med.sources.export import BLOCK, Export, Item, Shard, in_words
from siglip_med.sources.huggingface_rows import (
    READERS,
    DataFiles,
    Part,
    check_protocols,
    expanded,
    in_one_line,
    open_parts,
)

logger = logging.getLogger(__name__)

_SEPARATOR, _PREFIX = "|", "condition "
_AGAIN = "; run the same command to resume; if the file itself is damaged, repair it, or leave it out and give another "
_AGAIN += "data.source.root"
_SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
_FLAGS = frozenset({"0", "1", "0.0", "1.0", "true", "false", "yes", "no"})
_TEXT = ("group_column", "description_column", "skin_tone_column", "sex_column", "age_column", "site_column")


@dataclass(frozen=True, kw_only=True)
class HuggingFaceSource(FolderSource):
    """Writes the images of a data set to ``root`` once, as they are stored or scaled, and reads them from there.

    An interrupted export is resumed with the same settings. A column may be a key of a nested one: ``json.condition``.

    Args:
        root: folder to write to; made where it is missing.
        dataset: name on the hub, a folder saved with ``save_to_disk``, any folder that ``load_dataset`` reads, or
            with ``data_files`` the format of these: webdataset, parquet, arrow, json, csv or imagefolder.
        name: configuration, where the data set has several.
        revision: commit or tag on the hub.
        split: one split; None takes all, and keeps which one each image came from.
        data_files: paths, addresses or patterns of them, or a mapping of splits to these; ``{000..099}`` counts.
        streaming: whether the originals pass through shard by shard and none is kept; else `datasets` fetches all of
            them into its own cache first.
        side: shorter side in pixels to which larger photographs are scaled when they are written; None, and every
            photograph that is no larger, keeps the bytes as they are.
        image_column: column of images; of several the first that a row has.
        condition_column: column of text, of class labels, or of lists of them.
        condition_columns: or the columns that are conditions, each holding 0, 1, yes, no or a weight.
        group_column: and the other columns: as in `CsvSource`.

    Raises:
        UserError: as `FolderSource`; no such data set or column, or the root holds another one's export.
    """

    writes: ClassVar[bool] = True

    dataset: str
    name: str | None = None
    revision: str | None = None
    split: str | None = None
    data_files: DataFiles | None = None
    streaming: bool = False
    side: Annotated[int, Field(ge=MIN_SIDE, le=8192)] | None = None
    image_column: Column | Annotated[list[Column], Field(min_length=1)] = "image"
    condition_column: Column | None = None
    condition_columns: list[Column] | None = None
    group_column: Column | None = None
    description_column: Column | None = None
    skin_tone_column: Column | None = None
    sex_column: Column | None = None
    age_column: Column | None = None
    site_column: Column | None = None

    def __post_init__(self) -> None:
        if self.condition_column is not None and self.condition_columns is not None:
            raise UserError("data.source: give either condition_column or condition_columns; set the other to null")
        if self.data_files is None and self.dataset in READERS:
            raise UserError(
                f"data.source.dataset={self.dataset}: is a format; give its files in data.source.data_files"
            )
        if self.data_files is not None and self.dataset not in READERS and "/" not in self.dataset:
            raise UserError(f"data.source.dataset={self.dataset}: data_files are read as {', '.join(READERS)}")
        for name in self._files():
            check_protocols(name, "data.source.data_files")

    def prepare(self) -> None:
        """Exports the data set, unless this very export is there already; resumes an interrupted one.

        Raises:
            UserError: the folder holds an export with other settings, or of a data set that has changed since.
        """
        root = Path(self.root).expanduser()
        own = [
            item for item in fields(HuggingFaceSource) if item.name not in {base.name for base in fields(FolderSource)}
        ]
        # plain values, as JSON has them: a config's lists and mappings are none
        content = json.dumps({item.name: getattr(self, item.name) for item in own}, default=_plain)
        settings = json.loads(content)
        export = Export(root, settings, {item.name: item.default for item in own})
        state = self._state()
        if self._is_there(export, state):
            return
        parts, digest = open_parts(settings, self._images(), (*self._listed(), *self._texts().values()))
        shards = [shard for part in parts for shard in self._shards(part)]
        sizes = [part.total for part in parts if part.total is not None]
        total = sum(sizes) if len(sizes) == len(parts) else None
        conditions = [_PREFIX + name for name in self.condition_columns or ()] or ["condition"]
        with export.lock():
            if self._is_there(export, state):  # another process was faster
                return
            counts = export.write((*conditions, "split", *self._texts()), shards, digest or state, state, total)
        logger.info("%s: %s", root, in_words(counts, self.side))

    def read(self) -> ImageTable:
        """The exported table."""
        columns: dict[str, Any] = {name: name for name in self._texts()}
        if self.condition_columns is None:
            columns |= {"condition_column": "condition", "condition_separator": _SEPARATOR}
        else:
            columns["condition_prefix"] = _PREFIX
        table = CsvSource(root=self.root, aliases=dict(self.renamed), split_column="split", **columns).read()
        stamp = Path(self.root).expanduser() / "export.json"
        counts = json.loads(stamp.read_text(encoding="utf-8")).get("counts") if stamp.is_file() else None
        return table if counts is None else table.with_notes(in_words(counts, self.side))

    def _is_there(self, export: Export, state: str) -> bool:
        before = export.finished()
        if before is None:
            return False
        if before["state"] and not state:
            logger.warning("%s: the files it was exported from are gone, so it cannot be compared with them", self.root)
        elif before["state"] != state:
            raise UserError(
                f"{self.root}: was exported before {self.dataset} changed; remove the folder, or give another "
                "data.source.root, to read the data set as it is now"
            )
        return True

    def _state(self) -> str:
        """What the data set is now: a digest of its local files; "" for one of the hub, which `revision` pins."""
        folder = Path(self.dataset).expanduser()
        files = [Path(name) for pattern in self._files() for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207
        if folder.is_dir() and self.dataset not in READERS:
            files += [path for path in folder.rglob("*") if path.name[:6] != "cache-"]
        stamps = "\n".join(
            f"{path.relative_to(folder) if path.is_relative_to(folder) else path} {path.stat().st_size} "
            f"{path.stat().st_mtime_ns}"
            for path in sorted(files)
            if path.is_file()
        )
        return hashlib.sha256(stamps.encode()).hexdigest() if stamps else ""

    def _files(self) -> list[str]:
        given = expanded(self.data_files or [])
        return [name for names in given.values() for name in names] if isinstance(given, dict) else given

    def _images(self) -> tuple[str, ...]:
        return (self.image_column,) if isinstance(self.image_column, str) else tuple(self.image_column)

    def _listed(self) -> tuple[str, ...]:
        return tuple(self.condition_columns or [self.condition_column or "label"])

    def _texts(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in _TEXT if getattr(self, name) is not None}

    def _shards(self, part: Part) -> Iterator[Shard]:
        for column in (*self._images(), *self._listed(), *self._texts().values()):
            if not part.has(column):
                raise UserError(f"{self.dataset}: no column {column!r}; there are {', '.join(part.features or ())}")
        for number, name in enumerate(part.shards):
            yield Shard(part.name, name, partial(self._items, part, number))

    def _items(self, part: Part, number: int, skip: int) -> Iterator[Item]:
        """The rows of one shard behind the first ``skip``."""
        names = part.class_names(self._listed()[0])
        # where no type vouches for a column, the first rows must show it
        watched = part.features is None and number == 0 and skip == 0
        missing = {self._images(), *((column,) for column in (*self._listed(), *self._texts().values()))}
        # the library calls files without a split "train"
        unnamed = self.data_files is not None and not isinstance(self.data_files, Mapping)
        split = "" if unnamed else _SPLITS.get(part.name.lower(), "")
        rows: Iterator[dict[str, Any]] | None = None
        for position in itertools.count(skip):
            where = f"{part.shards[number]}, row {position + 1}"
            with in_one_line(f"{where}: cannot be read", _AGAIN):
                rows = part.open(number, skip) if rows is None else rows
                row = next(rows, None)
            seen = position if row is None else position + 1
            missing = {several for several in missing if all((row or {}).get(column) is None for column in several)}
            if watched and missing and (row is None or seen == BLOCK):
                absent = " or ".join(map(repr, sorted(missing)[0]))
                shard = part.shards[number]
                raise UserError(f"{shard}: none of its first {seen:,} rows has {absent}; check the columns")
            if row is None:
                return
            image = next((row[name] for name in self._images() if row.get(name) is not None), None)
            if isinstance(image, str | bytes):
                image = {"path" if isinstance(image, str) else "bytes": image}
            texts = (_text(row.get(column), f"{where}, column {column!r}") for column in self._texts().values())
            stem = Path("images") / part.name / f"{number:05d}" / f"{position:07d}"
            yield Item(number, where, stem, image, (*self._conditions(row, names, where), split, *texts))

    def _conditions(self, row: Mapping[str, Any], names: Sequence[str] | None, where: str) -> list[str]:
        """The cells of the row's conditions in the table; class label -1 is not known."""
        if self.condition_columns is not None:
            return [_text(row.get(name), f"{where}, column {name!r}") for name in self.condition_columns]
        column = self._listed()[0]
        value = row.get(column)
        values = value if isinstance(value, list) else [] if value is None else [value]
        if names is not None:
            values = [names[item] for item in values if item is not None and item >= 0]
        if isinstance(value, list) and len(values) > 1 and _FLAGS.issuperset(str(item).casefold() for item in values):
            raise UserError(
                f"{where}, column {column!r}: {values[:4]} is one value for each condition, not their names; split it "
                "into a column for each and give data.source.condition_columns"
            )
        texts = [_text(item, f"{where}, column {column!r}").strip() for item in values]
        if any(_SEPARATOR in text for text in texts):
            raise UserError(f"{where}: a condition's name holds {_SEPARATOR!r}, which the export needs; rename it")
        return [_SEPARATOR.join(dict.fromkeys(filter(None, texts)))]


def _text(value: Any, where: str) -> str:
    """A cell as text, "" where it is empty; a UserError where it holds an object, or bytes that are no text."""
    if isinstance(value, Mapping):
        keys = ", ".join(map(str, value))
        raise UserError(f"{where}: holds several values ({keys}); name one of them behind a dot")
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: holds bytes that are no UTF-8 text") from error
    return "" if value is None else str(value)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)
