"""ISIC 2019: 25,331 dermatoscopic images in eight diagnostic groups (HAM10000, BCN20000 and MSK together).

Source: Tschandl 2018, Codella 2018, Combalia 2019; https://challenge.isic-archive.com/data/#2019 (CC BY-NC 4.0).
"""

from dataclasses import dataclass
from typing import ClassVar

from siglip_med.core.errors import UserError
from siglip_med.core.provenance import Provenance
from siglip_med.core.reading import TextTable, read_csv
from siglip_med.data.accounting import LeftOut
from siglip_med.data.table import ImageTable, TableRow
from siglip_med.data.values import parse_age_group, parse_flag, parse_sex, parse_text
from siglip_med.sources.base import FolderSource, locate

DIAGNOSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
"""Columns of the ground truth; UNK has no image in the training set, and some copies leave its column out."""

_METADATA = ("image", "age_approx", "anatom_site_general", "lesion_id", "sex")


@dataclass(frozen=True, kw_only=True)
class Isic2019Source(FolderSource):
    """The ground truth and the metadata of the training set; a case is a lesion, or the image where none is named.

    Args:
        table: ground truth, relative to the root: image and one column a diagnosis.
        metadata: age, site, lesion and sex, relative to the root.
        image_folders: where the images may lie, relative to the root.
    """

    published: ClassVar[Provenance] = Provenance("photographs", "ISIC 2019", "CC BY-NC 4.0")

    table: str = "ISIC_2019_Training_GroundTruth.csv"
    metadata: str = "ISIC_2019_Training_Metadata.csv"
    image_folders: tuple[str, ...] = ("ISIC_2019_Training_Input", "images")

    def where_to_get_it(self) -> str:
        """The archive is behind a page that asks for attribution."""
        return "; ISIC 2019 is at https://challenge.isic-archive.com/data/#2019"

    def read(self) -> ImageTable:
        """Both tables, joined by image."""
        root = self.folder()
        truth = read_csv(root / self.table, required=("image", *DIAGNOSES[:-1]))
        metadata = read_csv(root / self.metadata, required=_METADATA)
        by_image = metadata.by_key("image")
        rows = []
        for number, row in truth.numbered():
            if row["image"] not in by_image:
                raise UserError(f"{truth.where(number)}: image {row['image']} has no row in {metadata.path}")
            _, about = by_image[row["image"]]
            rows.append(
                TableRow(
                    image=locate(root, self.image_folders, f"{row['image']}.jpg"),
                    weights=_weights(truth, number, row),
                    source_row=number,
                    image_id=row["image"],
                    case=parse_text(about["lesion_id"]),
                    sex=parse_sex(about["sex"]),
                    age_group=parse_age_group(about["age_approx"]),
                    site=parse_text(about["anatom_site_general"]),
                )
            )
        return self.table_of(
            rows,
            truth.path,
            notes=[*truth.notes, *metadata.notes],
            left_out=[LeftOut("rows without any text", truth.empty)],
            grouped=True,
            ordered=False,
        )


def _weights(truth: TextTable, number: int, row: dict[str, str]) -> dict[str, float]:
    columns = [name for name in DIAGNOSES if name in truth.columns]
    flags = {name: parse_flag(row[name], f"{truth.where(number)}, column {name!r}") for name in columns}
    return {name: weight for name, weight in flags.items() if weight > 0}
