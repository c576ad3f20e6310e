"""Fitzpatrick17k: 16,577 clinical photographs of 114 conditions with Fitzpatrick types.

Source: Groh et al., CVPRW 2021, https://github.com/mattgroh/fitzpatrick17k (annotations CC BY-NC-SA 3.0).
"""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar, Literal

from siglip_med.core.provenance import Provenance
from siglip_med.core.reading import read_csv
from siglip_med.data.accounting import LeftOut
from siglip_med.data.table import ImageTable, TableRow
from siglip_med.data.values import parse_skin_tone
from siglip_med.sources.base import Distance, FolderSource

_WRONG = "3 Wrongly labelled"


@dataclass(frozen=True, kw_only=True)
class Fitzpatrick17kSource(FolderSource):
    """``fitzpatrick17k.csv`` and its images, which are called ``<md5hash>.jpg``.

    Args:
        table: the CSV, relative to the root.
        image_folder: folder of the images, relative to the root.
        skin_tone: which annotation to take: ``fitzpatrick_scale`` (Scale AI) or ``fitzpatrick_centaur`` (Centaur Labs).
        drop_wrong: leave out the images that the authors' quality check found wrongly labeled.
        near_duplicate_distance: as in `FolderSource`, but not off: no patient is known, and many photographs are
            repeated.
    """

    published: ClassVar[Provenance] = Provenance(
        "photographs", "Fitzpatrick17k", "CC BY-NC-SA 3.0 for the annotations, the photographs are their authors'"
    )

    table: str = "fitzpatrick17k.csv"
    image_folder: str = "images"
    skin_tone: Literal["fitzpatrick_scale", "fitzpatrick_centaur"] = "fitzpatrick_scale"
    drop_wrong: bool = False
    near_duplicate_distance: Distance | None = 4

    def where_to_get_it(self) -> str:
        """The table is public; its images are downloaded from the addresses in it."""
        return "; the table and how to get the images: https://github.com/mattgroh/fitzpatrick17k"

    def read(self) -> ImageTable:
        """The CSV as a table; there is no patient in it, so each image is its own case."""
        root = self.folder()
        text = read_csv(root / self.table, required=("md5hash", "label", "qc", self.skin_tone))
        numbered = [(number, row) for number, row in text.numbered() if not (self.drop_wrong and row["qc"] == _WRONG)]
        rows = [
            TableRow(
                image=str(PurePosixPath(self.image_folder) / f"{row['md5hash']}.jpg"),
                weights=self.named(row["label"]),
                source_row=number,
                image_id=row["md5hash"],
                case=row["md5hash"],
                skin_tone=parse_skin_tone(row[self.skin_tone], text.where(number)),
            )
            for number, row in numbered
        ]
        notes = list(text.notes)
        if self.near_duplicate_distance is None:
            notes.append(
                "no patient is known: set data.source.near_duplicate_distance=4 to keep repeated photographs together"
            )
        left_out = [
            LeftOut("rows without any text", text.empty),
            LeftOut("the authors found the label wrong", len(text.rows) - len(numbered), asked=True),
        ]
        said = {number: row["label"] for number, row in numbered}
        return self.table_of(rows, text.path, said, notes=notes, left_out=left_out)
