"""Published data sets whose tables `CsvSource` reads: which files and columns they have, and where they can be had."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from siglip_med.core.provenance import Provenance
from siglip_med.data.filters import keep_rows
from siglip_med.data.table import ImageTable
from siglip_med.sources.base import Distance
from siglip_med.sources.columns import Column
from siglip_med.sources.csv_file import CsvSource


@dataclass(frozen=True, kw_only=True)
class Fitzpatrick17kSource(CsvSource):
    """Fitzpatrick17k: 16,577 clinical photographs of 114 conditions with Fitzpatrick types; no patient is known.

    Source: Groh et al., CVPRW 2021, https://github.com/mattgroh/fitzpatrick17k (annotations CC BY-NC-SA 3.0). The
    arguments are those of `CsvSource`; near-duplicates come into one case, since many photographs are repeated.

    Args:
        skin_tone_column: ``fitzpatrick_scale`` (Scale AI) or ``fitzpatrick_centaur`` (Centaur Labs).
        drop_wrong: leave out the images that the authors' quality check found wrongly labeled.
    """

    published: ClassVar[Provenance] = Provenance(
        "photographs", "Fitzpatrick17k", "CC BY-NC-SA 3.0 for the annotations, the photographs are their authors'"
    )
    where_to_get_it: ClassVar[str] = "; the table and how to get the images: https://github.com/mattgroh/fitzpatrick17k"

    table: str = "fitzpatrick17k.csv"
    image_column: Column = "md5hash"
    image_folder: str = "images"
    image_suffix: str = ".jpg"
    condition_column: Column | None = "label"
    group_column: Column | None = "md5hash"
    image_id_column: Column | None = "md5hash"
    skin_tone_column: Column | None = "fitzpatrick_scale"
    near_duplicate_distance: Distance | None = 4
    drop_wrong: bool = False

    def read(self) -> ImageTable:
        """The CSV as a table, without the rows that `drop_wrong` leaves out."""
        table = super().read()
        if self.drop_wrong:
            text = self._read(self.folder() / self.table, ("qc",))
            text.require("qc")
            wrong = {number for number, row in text.numbered() if row["qc"] == "3 Wrongly labelled"}
            kept = ~table.frame["source_row"].isin(wrong).to_numpy()
            table = keep_rows(table, kept, "the authors found the label wrong", asked=True)
        if self.near_duplicate_distance is not None:
            return table
        return table.with_notes(
            "no patient is known: set data.source.near_duplicate_distance=4 to keep repeated photographs together"
        )


@dataclass(frozen=True, kw_only=True)
class Ham10000Source(CsvSource):
    """HAM10000: 10,015 dermatoscopic images of 7,470 lesions in seven diagnostic groups; a case is a lesion.

    Source: Tschandl, Rosendahl and Kittler, Scientific Data 2018, https://doi.org/10.7910/DVN/DBW86T (CC BY-NC 4.0).
    The arguments are those of `CsvSource`; the archive's images come in two parts.
    """

    published: ClassVar[Provenance] = Provenance("photographs", "HAM10000", "CC BY-NC 4.0")
    where_to_get_it: ClassVar[str] = "; HAM10000 is at https://doi.org/10.7910/DVN/DBW86T"

    table: str = "HAM10000_metadata.csv"
    image_column: Column = "image_id"
    image_folders: tuple[str, ...] = ("HAM10000_images_part_1", "HAM10000_images_part_2", "images")
    image_suffix: str = ".jpg"
    condition_column: Column | None = "dx"
    group_column: Column | None = "lesion_id"
    image_id_column: Column | None = "image_id"
    sex_column: Column | None = "sex"
    age_column: Column | None = "age"
    site_column: Column | None = "localization"


@dataclass(frozen=True, kw_only=True)
class PadUfes20Source(CsvSource):
    """PAD-UFES-20: 2,298 smartphone photographs of 1,641 lesions of 1,373 patients, six diagnoses; a case is a patient.

    Source: Pacheco et al., Data in Brief 2020, https://doi.org/10.17632/zr7vgbcyr2.1 (CC BY 4.0). The arguments are
    those of `CsvSource`; the archive's images come in three parts.
    """

    published: ClassVar[Provenance] = Provenance("photographs", "PAD-UFES-20", "CC BY 4.0")
    where_to_get_it: ClassVar[str] = "; PAD-UFES-20 is at https://doi.org/10.17632/zr7vgbcyr2.1"

    table: str = "metadata.csv"
    image_column: Column = "img_id"
    image_folders: tuple[str, ...] = (
        *("imgs_part_1", "imgs_part_2", "imgs_part_3"),
        *("imgs_part_1/imgs_part_1", "imgs_part_2/imgs_part_2", "imgs_part_3/imgs_part_3"),  # as Kaggle nests them
        *("images/imgs_part_1", "images/imgs_part_2", "images/imgs_part_3", "images"),
    )
    condition_column: Column | None = "diagnostic"
    group_column: Column | None = "patient_id"
    image_id_column: Column | None = "img_id"
    skin_tone_column: Column | None = "fitspatrick"
    sex_column: Column | None = "gender"
    age_column: Column | None = "age"
    site_column: Column | None = "region"

    def read(self) -> ImageTable:
        """The CSV as a table, with body sites in lower case."""
        table = super().read()
        return replace(table, frame=table.frame.assign(site=table.frame["site"].str.lower()))


@dataclass(frozen=True, kw_only=True)
class Isic2019Source(CsvSource):
    """ISIC 2019: 25,331 dermatoscopic images in eight groups; a case is a lesion, or the image where none is named.

    Source: Tschandl 2018, Codella 2018, Combalia 2019; https://challenge.isic-archive.com/data/#2019 (CC BY-NC 4.0).
    The arguments are those of `CsvSource`: the ground truth, one column per diagnosis, with the metadata beside it.
    """

    published: ClassVar[Provenance] = Provenance("photographs", "ISIC 2019", "CC BY-NC 4.0")
    where_to_get_it: ClassVar[str] = "; ISIC 2019 is at https://challenge.isic-archive.com/data/#2019"

    table: str = "ISIC_2019_Training_GroundTruth.csv"
    join_table: str | None = "ISIC_2019_Training_Metadata.csv"
    join_key: Column | None = "image"
    image_folders: tuple[str, ...] = ("ISIC_2019_Training_Input", "images")
    image_suffix: str = ".jpg"
    # the ninth, UNK, has no image in the training set, and some copies leave it out
    condition_columns: list[Column] | None = field(
        default_factory=lambda: ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"]
    )
    group_column: Column | None = "lesion_id"
    image_id_column: Column | None = "image"
    sex_column: Column | None = "sex"
    age_column: Column | None = "age_approx"
    site_column: Column | None = "anatom_site_general"
