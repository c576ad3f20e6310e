"""One's own photographs: a folder and a CSV with one row per image."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from siglip_med.core.csv_reading import TextTable, read_csv
from siglip_med.core.errors import Faults, UserError
from siglip_med.data.accounting import LeftOut
from siglip_med.data.paths import removed_beside
from siglip_med.data.table import ImageTable, TableRow
from siglip_med.data.values import (
    is_unknown,
    parse_age_group,
    parse_flag,
    parse_sex,
    parse_skin_tone,
    parse_split,
    parse_text,
    parse_weight,
)
from siglip_med.sources.base import FolderSource
from siglip_med.sources.columns import Column, condition_columns, match_columns

_FIELD = re.compile(r"{([^{}]+)}")
_CELLS = ("weight", "group", "image_id", "description", "skin_tone", "sex", "age", "site", "split")


@dataclass(frozen=True, kw_only=True)
class CsvSource(FolderSource):
    """Images listed in a CSV. Every ``*_column`` names a column of it; None means that there is none.

    Conditions come in one of two shapes: a column of names (``condition_column``, with ``condition_separator``
    where a cell lists several and ``weight_column`` where they have weights, separated alike), or one column a
    condition (``condition_columns``, ``condition_prefix`` or ``condition_columns_except``) holding 0, 1, yes, no, a
    cross or a weight. "Not known" has the same spellings in every column (`siglip_med.data.values.UNKNOWN`).

    Args:
        table: the CSV, relative to the root.
        join_table: a second CSV, relative to the root, whose columns are put beside the first's.
        join_key: the column that both share; a row without a partner is left out and counted.
        image_column: path of the image, relative to ``image_folder``; or a pattern of several columns, such as
            ``{lesion_id}/{isic_id}``.
        image_folder: folder of the images, relative to the root.
        image_folders: or several, as the parts of an archive: the first that has an image, else the last.
        image_suffix: put behind each path, for tables that leave the extension out (".jpg").
        condition_column: one condition a cell, or several; the first is the primary one unless weights differ. The
            column ``condition`` where no other shape is given.
        condition_separator: between the conditions of a cell ("|"); None takes the cell as one name.
        condition_columns: names of the columns that are conditions.
        condition_prefix: how the names of those columns begin ("label_"); the conditions go without it.
        condition_columns_except: the columns that are no conditions; every other one is.
        where: column -> the value, or list of values, that a row must have; others are left out and counted.
        weight_column: weights from 0 to 1 of the cell's conditions, in the same order.
        group_column: case, patient, lesion or near-duplicate group: what no split may separate. A row that does not
            know it is its own case, which is noted.
        image_id_column: a name for each image; the path otherwise.
        description_column: a sentence on the image, for captions.
        skin_tone_column: Fitzpatrick type: 1 to 6, I to VI, FST1 to FST6, or 12, 34, 56.
        sex_column: f, m, female or male; others are kept as written.
        age_column: years (put into decades) or an age group (kept as written).
        site_column: body site.
        split_column: train, val or test, for `GivenSplitter`.
        split_rows: or files below the root, by split, that list the table's rows by number from 0 in their last column
            (Derm7pt's split); a row that none lists has no split.
        encoding: of the CSV; None finds it.
        delimiter: one character between its fields; None finds it.

    Raises:
        UserError: as `FolderSource`, and where both shapes of conditions are given.
    """

    table: str = "labels.csv"
    join_table: str | None = None
    join_key: Column | None = None
    image_column: Column = "image"
    image_folder: str = ""
    image_folders: tuple[str, ...] = ()
    image_suffix: str = ""
    condition_column: Column | None = None
    condition_separator: Annotated[str, Field(min_length=1)] | None = None
    condition_columns: list[Column] | None = None
    condition_prefix: Annotated[str, Field(min_length=1)] | None = None
    condition_columns_except: list[Column] | None = None
    where: dict[Column, Column | list[Column]] | None = None
    weight_column: Column | None = None
    group_column: Column | None = None
    image_id_column: Column | None = None
    description_column: Column | None = None
    skin_tone_column: Column | None = None
    sex_column: Column | None = None
    age_column: Column | None = None
    site_column: Column | None = None
    split_column: Column | None = None
    split_rows: dict[Literal["train", "val", "test"], str] | None = None
    encoding: Literal["utf-8", "utf-16", "latin-1", "cp1252"] | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None

    def __post_init__(self) -> None:
        shapes = [
            name
            for name in ("condition_column", "condition_columns", "condition_prefix", "condition_columns_except")
            if getattr(self, name) is not None
        ]
        if len(shapes) > 1:
            raise UserError(f"data.source: give one of {' and '.join(shapes)}; set the other to null")
        if self._one_hot and (self.weight_column or self.condition_separator):
            raise UserError(
                f"data.source.{shapes[0]}: the cells hold the weights; leave weight_column and condition_separator out"
            )
        if self.split_rows and (self.split_column or self.join_table):
            raise UserError("data.source.split_rows: counts rows of one table; leave split_column and join_table out")
        if (self.join_table is None) != (self.join_key is None):
            raise UserError("data.source: give join_table and join_key together: the second CSV and the shared column")

    @property
    def _one_hot(self) -> bool:
        return any((self.condition_columns, self.condition_prefix, self.condition_columns_except))

    def prepare(self) -> None:
        """Reads the table once, so that errors in it stop the run before anything else happens."""
        self.read()

    def read(self) -> ImageTable:
        """The CSV as a table."""
        root = self.folder()
        text = self._read(root / self.table, tuple(_FIELD.findall(self.image_column)) or (self.image_column,))
        left_out = [LeftOut("rows without any text", text.empty)]
        notes = [*text.notes, *_cleaned(text.path)]
        columns, rows = text.columns, [(number, dict(cells)) for number, cells in text.numbered()]
        if self.join_table is not None and self.join_key is not None:
            text.require(self.join_key)
            other = self._read(root / self.join_table, (self.join_key,))
            columns = (*columns, *(column for column in other.columns if column not in columns))
            rows, alone = _joined(rows, other, self.join_key)
            notes += other.notes
            reason = f"no row of {self.join_table} has the same {self.join_key}"
            left_out.append(LeftOut(reason, len(alone), rows=alone))
        where = self.where or {}
        for column, wanted in zip(match_columns(where, columns, text.path), where.values(), strict=True):
            values = {_bare(str(value)) for value in ([wanted] if isinstance(wanted, str | int | float) else wanted)}
            kept = [(number, cells) for number, cells in rows if _bare(cells[column]) in values]
            gone = tuple(number for number, cells in rows if _bare(cells[column]) not in values)
            left_out.append(LeftOut(f"data.source.where: {column} is another", len(gone), asked=True, rows=gone))
            rows = kept
        reader = _Rows(self, text, columns)
        table_rows, faults = [], Faults()
        parts = self._split_rows(root, [number for number, _ in text.numbered()])
        for number, cells in rows:
            with faults.catching():
                row = reader.row(number, cells)
                table_rows.append(replace(row, source_split=parts[number]) if number in parts else row)
        empty = [name for name in reader.one_hot.values() if not any(row.weights.get(name) for row in table_rows)]
        if empty:
            shown = ", ".join(map(repr, empty[:3])) + (" …" if len(empty) > 3 else "")
            notes.append(f"{len(empty)} columns of conditions have no positive, so they are no conditions: {shown}")
        if self.group_column is None:
            notes.append("no group column: each image is its own case, which leaks where a patient has several")
        with faults.catching():
            table = self.table_of(
                table_rows,
                text.path,
                reader.raw_labels,
                notes=notes,
                left_out=left_out,
                grouped=self.group_column is not None,
                ordered=not self._one_hot,
            )
        faults.stop()
        return table

    def _split_rows(self, root: Path, numbers: Sequence[int]) -> dict[int, str]:
        """The split of each row of the file that `split_rows` lists."""
        parts: dict[int, str] = {}
        for part, name in (self.split_rows or {}).items():
            listed = read_csv(root / name)
            for at, cells in listed.numbered():
                text = cells[listed.columns[-1]].strip()
                place = int(text) if text.isdecimal() else -1
                if not 0 <= place < len(numbers):
                    raise UserError(f"{listed.where(at)}: {text!r} is no row of the table, 0 to {len(numbers) - 1:,}")
                if (row := numbers[place]) in parts:
                    raise UserError(f"{listed.where(at)}: row {text} is in {parts[row]} already; a row has one split")
                parts[row] = part
        return parts

    def _read(self, path: Path, required: tuple[str, ...]) -> TextTable:
        return read_csv(path, encoding=self.encoding, delimiter=self.delimiter, hints=required)


class _Rows:
    """Turns the rows of one CSV into rows of the table; holds the role of each column."""

    def __init__(self, source: CsvSource, text: TextTable, columns: tuple[str, ...]) -> None:
        self.source, self.text = source, text
        self.raw_labels: dict[int, str] = {}
        s = source
        fields = _FIELD.findall(s.image_column) if s.image_column not in columns else []
        self.image_fields = dict(zip(fields, match_columns(fields, columns, text.path), strict=True))
        self.one_hot: Mapping[str, str] = {}
        if s._one_hot:
            self.one_hot = condition_columns(
                columns, text.path, s.condition_columns, s.condition_prefix, s.condition_columns_except
            )
        given = {name: getattr(s, f"{name}_column") for name in _CELLS}
        given["image"] = None if fields else s.image_column
        given["condition"] = None if s._one_hot else s.condition_column or "condition"
        self.columns = {
            name: match_columns([column], columns, text.path)[0] for name, column in given.items() if column is not None
        }

    def row(self, number: int, cells: Mapping[str, str]) -> TableRow:
        """One row of the CSV as a row of the table."""
        fields = {name: cells[column].strip() for name, column in self.columns.items()}
        where = {name: f"{self.text.where(number)}, column {column!r}" for name, column in self.columns.items()}

        def cell(name: str) -> str:
            return fields.get(name, "")

        return TableRow(
            image=self._image(number, cells, cell("image")),
            weights=self._weights(number, cells, where),
            source_row=number,
            image_id=cell("image_id"),
            case=parse_text(cell("group")),
            description=parse_text(cell("description")),
            skin_tone=parse_skin_tone(cell("skin_tone"), where.get("skin_tone", "")),
            sex=parse_sex(cell("sex")),
            age_group=parse_age_group(cell("age")),
            site=parse_text(cell("site")),
            source_split=parse_split(cell("split"), where.get("split", "")),
        )

    def _image(self, number: int, cells: Mapping[str, str], image: str) -> str:
        fields, source = self.image_fields, self.source
        if fields:
            empty = [column for column in fields.values() if not cells[column].strip()]
            if empty:
                raise UserError(f"{self.text.where(number)}, column {empty[0]!r}: is empty; the image path needs it")
            image = _FIELD.sub(lambda match: cells[fields[match[1]]].strip(), source.image_column)
        if not image:
            return ""
        name = f"{image.replace(chr(92), '/')}{source.image_suffix}"
        folders = source.image_folders or (source.image_folder,)
        root = Path(source.root).expanduser()
        found = (folder for folder in folders[:-1] if (root / folder / name).is_file())
        folder = next(found, folders[-1]).rstrip("/")
        return f"{folder}/{name}" if folder else name

    def _weights(self, number: int, cells: Mapping[str, str], where: Mapping[str, str]) -> dict[str, float]:
        if self.one_hot:
            at = self.text.where(number)
            flags = {
                name: parse_flag(cells[column], f"{at}, column {column!r}") for column, name in self.one_hot.items()
            }
            return {name: weight for name, weight in flags.items() if weight > 0}
        cell, separator = cells[self.columns["condition"]], self.source.condition_separator
        if separator is not None and cell.strip() and any(not part.strip() for part in cell.split(separator)):
            raise UserError(f"{where['condition']}: a condition has an empty name; remove the stray separator")
        names = self.source.names_in(cell, separator)
        if not names:
            self.raw_labels[number] = cell.strip()
        if len(set(names)) < len(names):
            raise UserError(f"{where['condition']}: lists a condition twice: {cell!r}")
        if "weight" not in self.columns:
            return dict.fromkeys(names, 1.0)
        raw = cells[self.columns["weight"]]
        weights = [] if is_unknown(raw) else raw.split(separator) if separator else [raw]
        if len(weights) != len(names):
            raise UserError(
                f"{where['weight']}: {len(names)} conditions but {len(weights)} weights; give one weight each"
            )
        return {name: parse_weight(text.strip(), where["weight"]) for name, text in zip(names, weights, strict=True)}


def _cleaned(path: Path) -> tuple[str, ...]:
    """That rows were removed before, where cleaning (`siglip_med.data.cleaning`) left them beside the table."""
    removed = removed_beside(path)
    if not removed.is_file():
        return ()
    text = read_csv(removed, skip_faulty=True)
    if not {"row", "why"} <= {*text.columns}:
        return ()  # somebody's own file of that name
    return (f"{len(text.rows):,} rows had been removed before, by cleaning; {removed.name} has each with its reason",)


def _bare(text: str) -> str:
    """Text without what does not count in a comparison: blanks, letter case, the ``.0`` of a whole number."""
    return text.strip().casefold().removesuffix(".0")


def _joined(
    rows: list[tuple[int, dict[str, str]]], other: TextTable, key: str
) -> tuple[list[tuple[int, dict[str, str]]], tuple[int, ...]]:
    """Each row with the columns of its partner behind its own, and the numbers of those that have none."""
    partners = other.by_key(key)
    joined = [
        (number, partners[cells[key].strip()][1] | cells) for number, cells in rows if cells[key].strip() in partners
    ]
    return joined, tuple(number for number, cells in rows if cells[key].strip() not in partners)
