"""What all sources that live in a folder share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveInt

from siglip_med.core.csv_reading import read_csv
from siglip_med.core.errors import UserError
from siglip_med.core.provenance import Provenance
from siglip_med.data.accounting import LeftOut
from siglip_med.data.filters import drop_rare_conditions, keep_conditions, rename_conditions
from siglip_med.data.near_duplicates import group_near_duplicates, perceptual_hashes
from siglip_med.data.paths import find_files
from siglip_med.data.table import ImageTable, TableRow, build_table
from siglip_med.data.values import is_unknown, parse_text
from siglip_med.sources.columns import Column

Distance = Annotated[int, Field(ge=0, le=32)]
"""Bits of 64 in which two perceptual hashes differ."""

_BY_ALIASES = "every condition is left out by data.source.aliases"
AliasFile = Annotated[str, Field(pattern="^@.")]
"""A CSV below the root."""


@dataclass(frozen=True, kw_only=True)
class FolderSource(ABC):
    """A data set in a folder; each format reads its files into a table in `read`.

    Args:
        root: the data set's folder.
        aliases: other names for conditions, as the data writes them: several may become one (a merge), and null
            leaves a condition out. A binary target is named so too: ``{1: Melanoma, 0: Nevus}``. Or ``@file.csv``
            below the root, where names are long or have brackets: the data's name, then ours or nothing.
        conditions: keep only these; an image that lists none of them is left out.
        minimum_images: conditions of fewer images are left out, with the images that have no other.
        near_duplicate_distance: images whose perceptual hashes differ in at most this many of 64 bits are put
            into one case, so that no split separates them; None opens no image. 4 is strict, 8 is loose.
        dataset_name: how cards and reports call the data; None for what the source knows of itself.
        license: of the photographs, for the same; None likewise.
        thumbnails: whether the data's licence, and the people in it, let a run keep small copies of its images and
            pages show them.

    Raises:
        UserError: the folder or a table in it is missing or wrong; the line names file and row.
    """

    root: str
    aliases: dict[Column, str | None] | AliasFile | None = None
    conditions: list[str] | None = None
    minimum_images: PositiveInt = 1
    near_duplicate_distance: Distance | None = None
    dataset_name: str | None = None
    license: str | None = None
    thumbnails: bool = False

    published: ClassVar[Provenance] = Provenance()
    """Provenance that the authors of the format's one data set state."""
    where_to_get_it: ClassVar[str] = ""
    """How the data set can be had, put behind the message that it is missing."""
    writes: ClassVar[bool] = False
    """Whether `prepare` fills the root itself, as a cache."""

    @property
    def provenance(self) -> Provenance:
        """Photographs, under the name and the license that are known of them."""
        known = self.published
        return replace(known, name=self.dataset_name or known.name, license=self.license or known.license)

    def prepare(self) -> None:
        """Checks that the folder is there, before a run makes anything."""
        self.folder()

    def folder(self) -> Path:
        """The root as a path; a UserError where there is no such folder."""
        path = Path(self.root).expanduser()
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; give data.source.root=FOLDER{self.where_to_get_it}")
        return path

    @cached_property
    def renamed(self) -> Mapping[str, str | None]:
        """`aliases` as a mapping, by `alias_key`."""
        given = self._alias_file(self.aliases[1:]) if isinstance(self.aliases, str) else self.aliases or {}
        return {alias_key(str(name)): new for name, new in given.items()}

    def _alias_file(self, name: str) -> dict[str, str | None]:
        table = read_csv(Path(self.root).expanduser() / name)
        if len(table.columns) != 2:
            raise UserError(f"{table.path}: has {len(table.columns)} columns; aliases have two: the data's name, ours")
        pairs = [tuple(cells[column].strip() for column in table.columns) for _, cells in table.numbered()]
        return {theirs: ours or None for theirs, ours in pairs}

    @abstractmethod
    def read(self) -> ImageTable:
        """The whole data set as a table, before the filters."""

    def load(self) -> ImageTable:
        """Reads the table and applies the filters; a UserError where a file is missing or wrong, or nothing is left."""
        table = find_files(self.filtered())
        if self.near_duplicate_distance is not None:
            # what cannot be read is for the policy of the DataModule to judge
            hashes = perceptual_hashes(table, on_bad_image="skip")
            table = group_near_duplicates(table, hashes, self.near_duplicate_distance)
        return replace(table, provenance=self.provenance, thumbnails=self.thumbnails)

    def filtered(self) -> ImageTable:
        """The table after the filters that need no image."""
        table = self.read()
        if self.conditions is not None:
            table = keep_conditions(table, self.conditions)
        return drop_rare_conditions(table, self.minimum_images)

    def table_of(
        self, rows: Sequence[TableRow], source: Path, raw_labels: Mapping[int, str] | None = None, **settings: Any
    ) -> ImageTable:
        """The rows as a table, with conditions renamed by `aliases`.

        Args:
            rows: one per image.
            source: the file or folder that they came from.
            raw_labels: text of the label field by ``source_row``, for rows without a condition.
            **settings: of `build_table`.
        """
        aliases = self.renamed
        notes, left_out = list(settings.pop("notes", ())), list(settings.pop("left_out", ()))
        listed = {name for row in rows for name in row.weights}
        found = {name: aliases[alias_key(name)] for name in listed if alias_key(name) in aliases}
        unused = sorted(aliases.keys() - {alias_key(name) for name in listed})
        if unused:
            notes.append(f"aliases that name no condition of the data: {len(unused)}, the first {unused[0]!r}")
        kept = []
        for row in rows:
            weights = rename_conditions(row.weights, found)
            if row.weights and not weights:
                left_out.append(LeftOut(_BY_ALIASES, 1, asked=True, rows=(row.source_row,)))
            else:
                kept.append(replace(row, weights=weights) if aliases else row)
        return build_table(
            kept,
            root=Path(self.root).expanduser(),
            source=str(source),
            notes=notes,
            left_out=left_out,
            raw_labels=raw_labels,
            **settings,
        )

    def names_in(self, cell: str, separator: str | None = None) -> list[str]:
        """The conditions that a cell names; "not known" in any spelling is none, unless `aliases` has it."""
        parts = [cell] if separator is None else cell.split(separator)
        aliases = self.renamed
        return [
            name if alias_key(name) in aliases else parse_text(name)
            for name in (part.strip() for part in parts)
            if alias_key(name) in aliases or not is_unknown(name)
        ]


def alias_key(name: str) -> str:
    """What a name is looked up by in `FolderSource.renamed`: itself; true and false in any spelling are one each."""
    return name.casefold() if name.casefold() in ("true", "false") else name
