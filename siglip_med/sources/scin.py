"""SCIN, the Skin Condition Image Network: 5,033 contributions with 10,380 photographs and weighted differentials.

Source: Ward et al. 2024, https://github.com/google-research-datasets/scin (SCIN Data Use License).
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from siglip_med.conditions import known_conditions
from siglip_med.core.csv_reading import TextTable, read_csv
from siglip_med.core.errors import UserError
from siglip_med.core.provenance import Provenance
from siglip_med.core.ranges import Share
from siglip_med.data.accounting import LeftOut
from siglip_med.data.filters import keep_conditions
from siglip_med.data.table import ImageTable, TableRow
from siglip_med.sources.base import FolderSource
from siglip_med.sources.download import download_all

BUCKET = "https://storage.googleapis.com/dx-scin-public-data"
NEVER_PUBLISHED = frozenset({"-2243186711511406658.png"})
"""Images that the tables list and the public bucket does not have."""

_TABLES = ("scin_cases.csv", "scin_labels.csv")
_GRADABLE = "DEFAULT_YES_IMAGE_QUALITY_SUFFICIENT"
_SEX = {"FEMALE": "female", "MALE": "male"}


@dataclass(frozen=True, kw_only=True)
class ScinSource(FolderSource):
    """The official tables ``scin_cases.csv`` and ``scin_labels.csv``, in the root or in ``dataset/`` below it.

    A case's conditions are the keys of ``weighted_skin_condition_label``; the primary one has the highest weight,
    and the first listed wins ties.

    Args:
        published_66: keep the 66 conditions of the published recipe: the images whose primary condition is one of
            them, with those of their conditions that are. All 370 otherwise.
        minimum_weight: conditions of a case below this weight are left out.
        gradable_only: only cases whose pictures every dermatologist who saw them found good enough to judge.
        soft_labels: labels are the dermatologists' weights; 1 for every positive condition otherwise.
        skin_tone: whose Fitzpatrick type to take: the first dermatologist's estimate or the person's own answer.
        image_folder: folder of the pictures, relative to the root.
        download: fetch what is missing from the public bucket (agree to the SCIN Data Use License first).
        download_url: address of the bucket or of a mirror with the same paths.
        download_workers: pictures fetched at the same time.

    Raises:
        UserError: as `FolderSource`; a label that is no Python literal; a case without a row in the other table.
    """

    published: ClassVar[Provenance] = Provenance("photographs", "SCIN", "SCIN Data Use License")
    where_to_get_it: ClassVar[str] = " or let data.source.download=true fetch SCIN into it (SCIN Data Use License)"

    published_66: bool = True
    minimum_weight: Share = 0.0
    gradable_only: bool = False
    soft_labels: bool = False
    skin_tone: Literal["dermatologist", "self_reported"] = "dermatologist"
    image_folder: str = "dataset/images"
    download: bool = False
    download_url: str = BUCKET
    download_workers: PositiveInt = 8

    def prepare(self) -> None:
        """Fetches the tables and the pictures that are missing, if that is asked for.

        Raises:
            UserError: the tables are missing, or a transfer failed; what arrived whole is kept.
        """
        if not self.download:
            self.read()
            return
        root = Path(self.root).expanduser()
        address = f"{self.download_url}/dataset"
        tables = {root / "dataset" / name: f"{address}/{name}" for name in _TABLES if _find(root, name) is None}
        download_all(tables, workers=1, title="SCIN tables")
        images = self.filtered().frame["image"].unique()
        pictures = {root / image: f"{address}/images/{PurePosixPath(image).name}" for image in images}
        download_all(pictures, workers=self.download_workers, title="SCIN pictures")

    def read(self) -> ImageTable:
        """Both tables, joined by case, one row per picture."""
        root = self.folder()
        cases, labels = (self._table(root, name) for name in _TABLES)
        by_case = labels.by_key("case_id")
        rows: list[TableRow] = []
        raw_labels: dict[int, str] = {}
        ungradable = unpublished = unlabeled = 0
        for number, case in cases.numbered():
            if case["case_id"] not in by_case:
                raise UserError(f"{cases.where(number)}: case {case['case_id']} has no row in {labels.path}")
            label_number, label = by_case[case["case_id"]]
            if self.gradable_only and not _gradable(label):
                ungradable += len(_images(case))
                continue
            weights = self._weights(label["weighted_skin_condition_label"], labels.where(label_number))
            unlabeled += not weights
            raw_labels[number] = label["weighted_skin_condition_label"]
            for name in _images(case):
                if name in NEVER_PUBLISHED:
                    unpublished += 1
                else:
                    rows.append(self._row(case, label, number, name, weights))
        notes = [f"{len(cases.rows):,} cases read, {unlabeled:,} of them without a condition"]
        left_out = [
            LeftOut("a dermatologist could not judge the case", ungradable, asked=True),
            LeftOut("the tables list it, the public bucket never had it", unpublished, asked=True),
        ]
        table = self.table_of(rows, cases.path, raw_labels, notes=notes, left_out=left_out, unit="images", grouped=True)
        if self.published_66:
            published = set(known_conditions("catalog"))
            kept = [name for name in table.conditions if name in published]
            table = keep_conditions(table, kept, "the first condition is none of the published 66", by="primary")
        return table if self.soft_labels else replace(table, labels=(table.labels > 0).astype(np.float32))

    def _table(self, root: Path, name: str) -> TextTable:
        path = _find(root, name)
        if path is None:
            raise UserError(f"{root}: has no {name}, nor dataset/{name}; give SCIN's folder{self.where_to_get_it}")
        required = _CASE_COLUMNS if name == _TABLES[0] else _LABEL_COLUMNS
        return read_csv(path, required=required)

    def _weights(self, text: str, where: str) -> dict[str, float]:
        try:
            weights = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
            raise UserError(f"{where}: weighted_skin_condition_label {text[:60]!r} is no Python literal") from error
        if not isinstance(weights, dict) or not all(
            isinstance(name, str) and isinstance(weight, int | float) for name, weight in weights.items()
        ):
            raise UserError(f"{where}: weighted_skin_condition_label {text[:60]!r} is no {{condition: weight}}")
        return {name: float(weight) for name, weight in weights.items() if weight >= self.minimum_weight}

    def _row(
        self, case: Mapping[str, str], label: Mapping[str, str], number: int, image: str, weights: dict[str, float]
    ) -> TableRow:
        tone = label["dermatologist_fitzpatrick_skin_type_label_1"]
        tone = tone if self.skin_tone == "dermatologist" else case["fitzpatrick_skin_type"]
        return TableRow(
            image=str(PurePosixPath(self.image_folder) / image),
            weights=weights,
            source_row=number,
            image_id=PurePosixPath(image).stem,
            case=case["case_id"],
            skin_tone=tone.removeprefix("FST") if tone.startswith("FST") else "",
            sex=_SEX.get(case["sex_at_birth"], ""),
            age_group=_age_group(case["age_group"]),
            site=_site(case),
        )


_CASE_COLUMNS = (
    *("case_id", "age_group", "sex_at_birth", "fitzpatrick_skin_type"),
    *(f"image_{number}_path" for number in (1, 2, 3)),
)
_LABEL_COLUMNS = (
    *("case_id", "weighted_skin_condition_label", "dermatologist_fitzpatrick_skin_type_label_1"),
    *(f"dermatologist_gradable_for_skin_condition_{grader}" for grader in (1, 2, 3)),
)


def _find(root: Path, name: str) -> Path | None:
    return next((path for path in (root / "dataset" / name, root / name) if path.is_file()), None)


def _images(case: Mapping[str, str]) -> list[str]:
    paths = [case[f"image_{position}_path"] for position in (1, 2, 3)]
    return [PurePosixPath(path).name for path in paths if path]


def _gradable(label: Mapping[str, str]) -> bool:
    gradable = [label[f"dermatologist_gradable_for_skin_condition_{grader}"] for grader in (1, 2, 3)]
    return all(answer == _GRADABLE for answer in gradable if answer)


def _age_group(text: str) -> str:
    if not text or text == "AGE_UNKNOWN":
        return ""
    return text.removeprefix("AGE_").replace("_TO_", "-").replace("_OR_ABOVE", "+")


def _site(case: Mapping[str, str]) -> str:
    parts = [name for name, answer in case.items() if name.startswith("body_parts_") and answer == "YES"]
    return ", ".join(part.removeprefix("body_parts_").replace("_", " ") for part in parts)
