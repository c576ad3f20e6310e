"""HAM10000: 10,015 dermatoscopic images of 7,470 lesions in seven diagnostic groups.

Source: Tschandl, Rosendahl and Kittler, Scientific Data 2018, https://doi.org/10.7910/DVN/DBW86T (CC BY-NC 4.0).
"""

from dataclasses import dataclass
from typing import ClassVar

from siglip_med.core.provenance import Provenance
from siglip_med.core.reading import read_csv
from siglip_med.data.accounting import LeftOut
from siglip_med.data.table import ImageTable, TableRow
from siglip_med.data.values import parse_age_group, parse_sex, parse_text
from siglip_med.sources.base import FolderSource, locate

_COLUMNS = ("lesion_id", "image_id", "dx", "age", "sex", "localization")


@dataclass(frozen=True, kw_only=True)
class Ham10000Source(FolderSource):
    """``HAM10000_metadata.csv`` and its images ``<image_id>.jpg``; a case is a lesion.

    Args:
        table: the CSV, relative to the root.
        image_folders: where the images may lie, relative to the root; the archive comes in two parts.
    """

    published: ClassVar[Provenance] = Provenance("photographs", "HAM10000", "CC BY-NC 4.0")

    table: str = "HAM10000_metadata.csv"
    image_folders: tuple[str, ...] = ("HAM10000_images_part_1", "HAM10000_images_part_2", "images")

    def where_to_get_it(self) -> str:
        """Harvard Dataverse asks to accept its terms, so nothing is fetched."""
        return "; HAM10000 is at https://doi.org/10.7910/DVN/DBW86T"

    def read(self) -> ImageTable:
        """The CSV as a table."""
        root = self.folder()
        text = read_csv(root / self.table, required=_COLUMNS)
        rows = [
            TableRow(
                image=locate(root, self.image_folders, f"{row['image_id']}.jpg"),
                weights=self.named(row["dx"]),
                source_row=number,
                image_id=row["image_id"],
                case=parse_text(row["lesion_id"]),
                sex=parse_sex(row["sex"]),
                age_group=parse_age_group(row["age"]),
                site=parse_text(row["localization"]),
            )
            for number, row in text.numbered()
        ]
        said = {number: row["dx"] for number, row in text.numbered()}
        empty = [LeftOut("rows without any text", text.empty)]
        return self.table_of(rows, text.path, said, notes=text.notes, left_out=empty, grouped=True)
