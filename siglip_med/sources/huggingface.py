"""Any image data set in the format of Hugging Face `datasets`, local or from the hub."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from siglip_med.data.table import ImageTable
from siglip_med.data.values import parse_flag
from siglip_med.errors import UserError
from siglip_med.extras import require
from siglip_med.files import write_bytes, write_csv, write_json
from siglip_med.sources.base import FolderSource
from siglip_med.sources.columns import Column
from siglip_med.sources.csv_file import CsvSource

_SEPARATOR = "|"
_SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
_TEXT = ("group_column", "description_column", "skin_tone_column", "sex_column", "age_column", "site_column")


@dataclass(frozen=True, kw_only=True)
class HuggingFaceSource(FolderSource):
    """Writes the images of a data set to ``root`` once, byte by byte as they are stored, and reads them from there.

    Args:
        root: folder to write to; made where it is missing.
        dataset: name on the hub, a folder saved with ``save_to_disk``, or any folder that ``load_dataset`` reads.
        name: configuration, where the data set has several.
        revision: commit or tag on the hub.
        split: one split; None takes all, and keeps which one each image came from.
        image_column: column of images.
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
    image_column: Column = "image"
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

    def prepare(self) -> None:
        """Exports the data set, unless this very export is there already.

        Raises:
            UserError: the folder holds an export with other settings, or of a data set that has changed since.
        """
        root = Path(self.root).expanduser()
        filters = {"root", "conditions", "minimum_images", "near_duplicate_distance", "aliases"}
        settings = {name: value for name, value in asdict(self).items() if name not in filters}
        settings["state"] = self._state()
        stamp = root / "export.json"
        if stamp.is_file():
            before = json.loads(stamp.read_text())
            if before | {"state": None} != settings | {"state": None}:
                raise UserError(f"{root}: holds another export; give another data.source.root")
            if before["state"] != settings["state"]:
                raise UserError(
                    f"{root}: was exported before {self.dataset} changed; remove the folder, or give another "
                    "data.source.root, to read the data set as it is now"
                )
            return
        records = [record for part, rows in self._splits().items() for record in self._export(root, part, rows)]
        if not records:
            raise UserError(f"{self.dataset}: holds no row; check data.source.dataset and split")
        write_csv(root / "labels.csv", list(records[0]), (list(record.values()) for record in records))
        write_json(stamp, settings)

    def read(self) -> ImageTable:
        """The exported table."""
        columns: dict[str, Any] = {name: name for name in _TEXT if getattr(self, name) is not None}
        return CsvSource(
            root=self.root,
            aliases=self.aliases,
            condition_column="condition",
            condition_separator=_SEPARATOR,
            weight_column="weight",
            split_column="split",
            **columns,
        ).read()

    def _state(self) -> str:
        """What the data set is now: a digest of a folder's files; "" for one of the hub, which `revision` pins."""
        folder = Path(self.dataset).expanduser()
        if not folder.is_dir():
            return ""
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[:6] != "cache-")
        stamps = "\n".join(
            f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files
        )
        return hashlib.sha256(stamps.encode()).hexdigest()

    def _splits(self) -> dict[str, Any]:
        datasets = _library()
        folder = Path(self.dataset).expanduser()
        saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
        try:
            if saved:
                loaded = datasets.load_from_disk(str(folder))
            else:
                loaded = datasets.load_dataset(self.dataset, self.name, revision=self.revision)
        except (OSError, ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())
            raise UserError(f"data.source.dataset={self.dataset}: cannot be loaded ({said[:300]})") from error
        splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or ""): loaded}
        if self.split is not None:
            if self.split not in splits:
                raise UserError(f"{self.dataset}: has no split {self.split!r}; there are {', '.join(splits)}")
            splits = {self.split: splits[self.split]}
        return splits

    def _export(self, root: Path, part: str, rows: Any) -> Iterator[dict[str, str]]:
        datasets = _library()
        wanted = {name: getattr(self, name) for name in _TEXT if getattr(self, name) is not None}
        listed = self.condition_columns or [self.condition_column or "label"]
        for column in (self.image_column, *listed, *wanted.values()):
            if column not in rows.column_names:
                have = ", ".join(rows.column_names)
                raise UserError(f"{self.dataset}: no column {column!r}; there are {have}")
        feature = rows.features[listed[0]]
        inner = getattr(feature, "feature", feature)
        names = inner.names if isinstance(inner, datasets.ClassLabel) else None
        rows = rows.cast_column(self.image_column, datasets.Image(decode=False))
        for number, row in enumerate(rows):
            where = f"{self.dataset}, {part or 'row'} {number + 1}"
            if self.condition_columns is not None:
                flags = {name: parse_flag(_text(row[name]), f"{where}, column {name!r}") for name in listed}
                # the order of columns means nothing: rarest or alphabetical first is for the table to say
                weights = {name: weight for name, weight in sorted(flags.items()) if weight > 0}
            else:
                weights = dict.fromkeys(_conditions(row[listed[0]], names), 1.0)
            if any(_SEPARATOR in name for name in weights):
                raise UserError(f"{where}: a condition's name holds {_SEPARATOR!r}, which the export needs; rename it")
            path = self._write_image(root, Path("images") / part / f"{number:07d}", row[self.image_column], where)
            yield {
                "image": path,
                "condition": _SEPARATOR.join(weights),
                "weight": _SEPARATOR.join(map(str, weights.values())),
                "split": _SPLITS.get(part.lower(), ""),
                **{name: _text(row[column]) for name, column in wanted.items()},
            }

    @staticmethod
    def _write_image(root: Path, stem: Path, image: dict[str, Any] | None, where: str) -> str:
        if image is None:
            raise UserError(f"{where}: has no image; leave such rows out of the data set")
        suffix = Path(image["path"] or "").suffix.lower() or ".img"
        data = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
        path = stem.with_name(stem.name + suffix)
        write_bytes(root / path, data)
        return path.as_posix()


def _library() -> Any:
    return require("datasets", feature="data=huggingface", extra="huggingface")


def _conditions(value: Any, names: list[str] | None) -> list[str]:
    """The conditions of a cell: a text, a class label, or a list of them; class label -1 is not known."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if names is not None:
        values = [names[item] for item in values if item >= 0]
    texts = (str(item).strip() for item in values)
    return list(dict.fromkeys(text for text in texts if text))


def _text(value: Any) -> str:
    return "" if value is None else str(value)
