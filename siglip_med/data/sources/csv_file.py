"""One's own photographs: a folder and a CSV with one row an image."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from siglip_med.data.reading import TextTable, read_csv
from siglip_med.data.sources.base import FolderSource
from siglip_med.data.sources.values import (
    parse_age_group,
    parse_sex,
    parse_skin_tone,
    parse_split,
    parse_text,
    parse_weight,
)
from siglip_med.data.table import ImageTable, TableRow, build_table
from siglip_med.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CsvSource(FolderSource):
    """Images listed in a CSV. Every ``*_column`` names a column of it; None means that there is none.

    Conditions come in one of two shapes: a column of names (``condition_column``, with ``condition_separator``
    where a cell lists several and ``weight_column`` where they have weights, separated alike), or one column a
    condition (``condition_columns``) holding 0, 1 or a weight.

    Args:
        table: the CSV, relative to the root.
        image_column: path of the image, relative to ``image_folder``.
        image_folder: folder of the images, relative to the root.
        image_suffix: put behind each path, for tables that leave the extension out (".jpg").
        condition_column: one condition a cell, or several; the first is the primary one unless weights differ.
        condition_separator: between the conditions of a cell ("|"); None takes the cell as one name.
        condition_columns: names of the columns that are conditions.
        weight_column: weights from 0 to 1 of the cell's conditions, in the same order.
        group_column: case, patient, lesion or near-duplicate group: what no split may separate.
        image_id_column: a name for each image; the path otherwise.
        description_column: a sentence on the image, for captions.
        skin_tone_column: Fitzpatrick type: 1 to 6, I to VI or FST1 to FST6; empty or -1 where unknown.
        sex_column: f, m, female or male; others are kept as written.
        age_column: years (put into decades) or an age group (kept as written).
        site_column: body site.
        split_column: train, val or test, for `GivenSplitter`.
        encoding: of the CSV.
        delimiter: one character between its fields.

    Raises:
        UserError: as `FolderSource`, and where no condition column or both shapes are given.
    """

    table: str = "labels.csv"
    image_column: str = "image"
    image_folder: str = ""
    image_suffix: str = ""
    condition_column: str | None = "condition"
    condition_separator: Annotated[str, Field(min_length=1)] | None = None
    condition_columns: list[str] | None = None
    weight_column: str | None = None
    group_column: str | None = None
    image_id_column: str | None = None
    description_column: str | None = None
    skin_tone_column: str | None = None
    sex_column: str | None = None
    age_column: str | None = None
    site_column: str | None = None
    split_column: str | None = None
    encoding: Literal["utf-8", "utf-16", "latin-1", "cp1252"] = "utf-8"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","

    def __post_init__(self) -> None:
        if (self.condition_column is None) == (self.condition_columns is None):
            raise UserError(
                "data.source: give either condition_column (names in one column) or condition_columns "
                "(one column a condition), and set the other to null"
            )
        if self.condition_columns is not None and (self.weight_column or self.condition_separator):
            raise UserError(
                "data.source.condition_columns: the cells hold the weights; "
                "leave weight_column and condition_separator out"
            )

    def prepare(self) -> None:
        """Reads the table once, so that what is wrong with it is said before anything else happens."""
        self.read()

    def read(self) -> ImageTable:
        """The CSV as a table."""
        root = self.folder()
        text = read_csv(root / self.table, encoding=self.encoding, delimiter=self.delimiter)
        text.require(self.image_column, *self._optional_columns(), *(self.condition_columns or ()))
        rows = [self._row(text, number, cells) for number, cells in text.numbered()]
        notes = []
        if self.group_column is None:
            notes.append("no group column: each image is its own case, which leaks where a patient has several")
        return build_table(rows, root=root, source=str(text.path), notes=notes)

    def _optional_columns(self) -> list[str]:
        columns = [
            self.condition_column,
            self.weight_column,
            self.group_column,
            self.image_id_column,
            self.description_column,
            self.skin_tone_column,
            self.sex_column,
            self.age_column,
            self.site_column,
            self.split_column,
        ]
        return [column for column in columns if column is not None]

    def _row(self, text: TextTable, number: int, cells: dict[str, str]) -> TableRow:
        where = text.where(number)

        def cell(column: str | None) -> str:
            return "" if column is None else cells[column].strip()

        image = cell(self.image_column)
        if image:
            folder = f"{self.image_folder.rstrip('/')}/" if self.image_folder else ""
            image = f"{folder}{image}{self.image_suffix}"
        case = cell(self.group_column)
        if self.group_column is not None and not case:
            raise UserError(f"{where}: column {self.group_column!r} is empty; name the group of every image")
        return TableRow(
            image=image,
            weights=self._weights(cells, where),
            source_row=number,
            image_id=cell(self.image_id_column),
            case=case,
            description=cell(self.description_column),
            skin_tone=parse_skin_tone(cell(self.skin_tone_column), where),
            sex=parse_sex(cell(self.sex_column)),
            age_group=parse_age_group(cell(self.age_column)),
            site=parse_text(cell(self.site_column)),
            source_split=parse_split(cell(self.split_column), where),
        )

    def _weights(self, cells: dict[str, str], where: str) -> dict[str, float]:
        if self.condition_columns is not None:
            return {name: parse_weight(cells[name].strip() or "0", where) for name in self.condition_columns}
        assert self.condition_column is not None
        names = self._parts(cells[self.condition_column])
        if len(set(names)) < len(names):
            raise UserError(f"{where}: lists a condition twice: {cells[self.condition_column]!r}")
        if self.weight_column is None:
            return dict.fromkeys(names, 1.0)
        weights = self._parts(cells[self.weight_column])
        if len(weights) != len(names):
            raise UserError(f"{where}: {len(names)} conditions but {len(weights)} weights; give one weight each")
        return {name: parse_weight(weight, where) for name, weight in zip(names, weights, strict=True)}

    def _parts(self, cell: str) -> list[str]:
        if not cell.strip():
            return []
        parts = [cell] if self.condition_separator is None else cell.split(self.condition_separator)
        return [part.strip() for part in parts]
