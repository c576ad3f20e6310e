"""Any image data set in the format of Hugging Face `datasets`, local or from the hub."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from siglip_med.data.sources.base import FolderSource
from siglip_med.data.sources.csv_file import CsvSource
from siglip_med.data.table import ImageTable
from siglip_med.errors import UserError
from siglip_med.extras import require
from siglip_med.files import write_bytes, write_csv, write_json

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
        group_column: and the other columns: as in `CsvSource`.

    Raises:
        UserError: as `FolderSource`; no such data set or column, or the root holds another one's export.
    """

    dataset: str
    name: str | None = None
    revision: str | None = None
    split: str | None = None
    image_column: str = "image"
    condition_column: str = "label"
    group_column: str | None = None
    description_column: str | None = None
    skin_tone_column: str | None = None
    sex_column: str | None = None
    age_column: str | None = None
    site_column: str | None = None

    def prepare(self) -> None:
        """Exports the data set, unless this very export is there already."""
        root = Path(self.root).expanduser()
        settings = asdict(self) | {"conditions": None, "minimum_images": 1, "near_duplicate_distance": None, "root": ""}
        stamp = root / "export.json"
        if stamp.is_file():
            if json.loads(stamp.read_text()) != settings:
                raise UserError(f"{root}: holds another export; give another data.source.root")
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
            condition_column="condition",
            condition_separator=_SEPARATOR,
            split_column="split",
            **columns,
        ).read()

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
        for column in (self.image_column, self.condition_column, *wanted.values()):
            if column not in rows.column_names:
                have = ", ".join(rows.column_names)
                raise UserError(f"{self.dataset}: no column {column!r}; there are {have}")
        feature = rows.features[self.condition_column]
        inner = getattr(feature, "feature", feature)
        names = inner.names if isinstance(inner, datasets.ClassLabel) else None
        rows = rows.cast_column(self.image_column, datasets.Image(decode=False))
        for number, row in enumerate(rows):
            where = f"{self.dataset}, {part or 'row'} {number + 1}"
            path = self._write_image(root, Path("images") / part / f"{number:07d}", row[self.image_column], where)
            yield {
                "image": path,
                "condition": _conditions(row[self.condition_column], names, where),
                "split": _SPLITS.get(part.lower(), ""),
                **{name: "" if row[column] is None else str(row[column]) for name, column in wanted.items()},
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


def _conditions(value: Any, names: list[str] | None, where: str) -> str:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if names is not None:
        values = [names[item] for item in values if item >= 0]
    texts = [str(item).strip() for item in values]
    if any(_SEPARATOR in text for text in texts):
        raise UserError(f"{where}: a condition's name holds {_SEPARATOR!r}, which the export needs; rename it")
    return _SEPARATOR.join(text for text in texts if text)
