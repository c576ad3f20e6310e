"""What a source is, and what all sources that live in a folder share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Protocol, runtime_checkable

from pydantic import Field, PositiveInt

from siglip_med.data.filters import drop_rare_conditions, keep_conditions
from siglip_med.data.near_duplicates import group_near_duplicates, perceptual_hashes
from siglip_med.data.table import ImageTable
from siglip_med.errors import UserError

Distance = Annotated[int, Field(ge=0, le=32)]
"""Bits of 64 in which two perceptual hashes differ."""


@runtime_checkable
class Source(Protocol):
    """Where images and labels come from."""

    def prepare(self) -> None:
        """Downloads, exports or renders what is not there yet; runs once, in one process."""

    def load(self) -> ImageTable:
        """Reads the table; opens no image unless near-duplicates are asked for."""


@dataclass(frozen=True, kw_only=True)
class FolderSource(ABC):
    """A data set in a folder; each format says in `read` how its files become a table.

    Args:
        root: the data set's folder.
        conditions: keep only these; an image whose first condition is another one is left out.
        minimum_images: conditions listed on fewer images are left out, with the images they come first on.
        near_duplicate_distance: images whose perceptual hashes differ in at most this many of 64 bits are put
            into one case, so that no split separates them; None opens no image. 4 is strict, 8 is loose.

    Raises:
        UserError: the folder or a table in it is missing or wrong; the line names file and row.
    """

    root: str
    conditions: list[str] | None = None
    minimum_images: PositiveInt = 1
    near_duplicate_distance: Distance | None = None

    def prepare(self) -> None:
        """Checks that the folder is there, before a run makes anything."""
        self.folder()

    def folder(self) -> Path:
        """The root as a path.

        Raises:
            UserError: there is no such folder.
        """
        path = Path(self.root).expanduser()
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; give data.source.root=FOLDER{self.where_to_get_it()}")
        return path

    def where_to_get_it(self) -> str:
        """How the data set can be had, put behind the message that it is missing."""
        return ""

    @abstractmethod
    def read(self) -> ImageTable:
        """The whole data set as a table, before the filters."""

    def load(self) -> ImageTable:
        """Reads the table and applies the filters.

        Raises:
            UserError: a file is missing or wrong, or nothing is left.
        """
        table = self.filtered()
        if self.near_duplicate_distance is not None:
            # what cannot be read is for the policy of the DataModule to judge
            hashes = perceptual_hashes(table, on_bad_image="skip")
            table = group_near_duplicates(table, hashes, self.near_duplicate_distance)
        return table

    def filtered(self) -> ImageTable:
        """The table after the filters that need no image."""
        table = self.read()
        if self.conditions is not None:
            table = keep_conditions(table, self.conditions)
        return drop_rare_conditions(table, self.minimum_images)


def locate(root: Path, folders: Sequence[str], name: str) -> str:
    """Path of an image relative to the root: in the first of ``folders`` that has it, else in the last.

    The official archives unpack into several parts, which people then often put into one folder.
    """
    folder = next((folder for folder in folders if (root / folder / name).is_file()), folders[-1])
    return str(PurePosixPath(folder) / name)
