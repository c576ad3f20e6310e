"""Fitzpatrick17k: 16,577 clinical photographs of 114 conditions with Fitzpatrick types.

Source: Groh et al., CVPRW 2021, https://github.com/mattgroh/fitzpatrick17k (annotations CC BY-NC-SA 3.0).
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from siglip_med.data.reading import read_csv
from siglip_med.data.sources.base import Distance, FolderSource
from siglip_med.data.sources.values import parse_skin_tone
from siglip_med.data.table import ImageTable, TableRow, build_table

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
        wrong = Counter(row["qc"] for row in text.rows)[_WRONG] if self.drop_wrong else 0
        rows = [
            TableRow(
                image=str(PurePosixPath(self.image_folder) / f"{row['md5hash']}.jpg"),
                weights={row["label"]: 1.0},
                source_row=number,
                image_id=row["md5hash"],
                case=row["md5hash"],
                skin_tone=parse_skin_tone(row[self.skin_tone], text.where(number)),
            )
            for number, row in text.numbered()
            if not (self.drop_wrong and row["qc"] == _WRONG)
        ]
        notes = []
        if self.near_duplicate_distance is None:
            notes.append(
                "no patient is known: set data.source.near_duplicate_distance=4 to keep repeated photographs together"
            )
        if wrong:
            notes.append(f"{wrong} images that the authors found wrongly labeled are left out")
        return build_table(rows, root=root, source=str(text.path), notes=notes)
