"""PAD-UFES-20: 2,298 smartphone photographs of 1,641 lesions of 1,373 patients, six diagnoses.

Source: Pacheco et al., Data in Brief 2020, https://doi.org/10.17632/zr7vgbcyr2.1 (CC BY 4.0).
"""

from dataclasses import dataclass
from typing import ClassVar

from siglip_med.core.provenance import Provenance
from siglip_med.core.reading import read_csv
from siglip_med.data.accounting import LeftOut
from siglip_med.data.table import ImageTable, TableRow
from siglip_med.data.values import parse_age_group, parse_sex, parse_skin_tone, parse_text
from siglip_med.sources.base import FolderSource, locate

_COLUMNS = ("patient_id", "img_id", "diagnostic", "age", "gender", "fitspatrick", "region")


@dataclass(frozen=True, kw_only=True)
class PadUfes20Source(FolderSource):
    """``metadata.csv`` and its images; a case is a patient.

    Args:
        table: the CSV, relative to the root.
        image_folders: where the images may lie, relative to the root; the archive comes in three parts.
    """

    published: ClassVar[Provenance] = Provenance("photographs", "PAD-UFES-20", "CC BY 4.0")

    table: str = "metadata.csv"
    image_folders: tuple[str, ...] = (
        "imgs_part_1",
        "imgs_part_2",
        "imgs_part_3",
        "images/imgs_part_1",
        "images/imgs_part_2",
        "images/imgs_part_3",
        "images",
    )

    def where_to_get_it(self) -> str:
        """Mendeley Data hands out one archive, which a person unpacks."""
        return "; PAD-UFES-20 is at https://doi.org/10.17632/zr7vgbcyr2.1"

    def read(self) -> ImageTable:
        """The CSV as a table."""
        root = self.folder()
        text = read_csv(root / self.table, required=_COLUMNS)
        rows = [
            TableRow(
                image=locate(root, self.image_folders, row["img_id"]),
                weights=self.named(row["diagnostic"]),
                source_row=number,
                image_id=row["img_id"],
                case=parse_text(row["patient_id"]),
                skin_tone=parse_skin_tone(row["fitspatrick"], text.where(number)),
                sex=parse_sex(row["gender"]),
                age_group=parse_age_group(row["age"]),
                site=parse_text(row["region"]).lower(),
            )
            for number, row in text.numbered()
        ]
        said = {number: row["diagnostic"] for number, row in text.numbered()}
        empty = [LeftOut("rows without any text", text.empty)]
        return self.table_of(rows, text.path, said, notes=text.notes, left_out=empty, grouped=True)
