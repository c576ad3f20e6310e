"""What a split did: counts by condition, divergence of the label shares, straddling groups, missing conditions."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError
from scipy.spatial.distance import jensenshannon

from siglip_med.core.errors import UserError, first_fault
from siglip_med.core.files import write_json, write_text
from siglip_med.core.provenance import Provenance
from siglip_med.data.accounting import LeftOut, largest_case
from siglip_med.data.splitting.stratification import straddling_groups
from siglip_med.data.table import SPLITS, ImageTable

PEOPLE = ("sex", "age_group", "skin_tone", "site")
"""Columns of a table that say who is in it, as far as a data set gives them."""


@dataclass(frozen=True)
class MissingCondition:
    """A condition that no image of a split lists, and why."""

    condition: str
    split: str
    cases: int
    reason: str


@dataclass(frozen=True)
class SplitReport:
    """A split in figures.

    Attributes:
        source: file or folder of the data.
        unit: what was read: rows, images or files.
        read: how many of them the source has; ``used`` of them are in the table, the others are in ``left_out``.
        hash: the split's.
        images: number of images by split; ``cases`` likewise.
        counts: by condition, then by split: images that list it.
        primary_counts: the same, of images whose first condition it is.
        divergence: by split: Jensen-Shannon divergence, in bits, of the label shares to those of the whole table.
        primary_divergence: the same for the first conditions.
        straddling: groups (cases, joined where they share an image file) with images in several splits.
        missing: conditions that a split lacks.
        left_out: how many were left out before the split, and why.
        largest_case: the case with the most images, and how many.
        notes: what was changed before the split.
        provenance: drawings or photographs, of which data set.
        people: by column of `PEOPLE`, value (empty: not said) and split: images and cases. A case with several values
            counts with each.
        how: what made the split, in a line; empty in a report of an earlier version.
    """

    source: str
    unit: str
    read: int
    used: int
    left_out: list[LeftOut]
    hash: str
    images: dict[str, int]
    cases: dict[str, int]
    counts: dict[str, dict[str, int]]
    primary_counts: dict[str, dict[str, int]]
    divergence: dict[str, float]
    primary_divergence: dict[str, float]
    straddling: list[str]
    missing: list[MissingCondition]
    largest_case: tuple[str, int]
    notes: list[str]
    provenance: Provenance
    people: dict[str, dict[str, dict[str, tuple[int, int]]]] = field(default_factory=dict)
    how: str = ""

    @classmethod
    def load(cls, path: Path) -> "SplitReport | None":
        """What `save` wrote, also before there was ``people``; None where there is no file, a UserError if damaged."""
        if not path.is_file():
            return None
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except ValidationError as error:
            raise UserError(f"{path}: this report of a split is damaged: {first_fault(error)}; remove it") from error

    def save(self, path: Path) -> None:
        """Writes the report as JSON, and as readable text beside it; each in place only when whole."""
        left_out = [{name: value for name, value in asdict(one).items() if name != "rows"} for one in self.left_out]
        write_json(path, asdict(self) | {"left_out": left_out})
        write_text(path.with_suffix(".txt"), str(self))

    def account(self) -> list[str]:
        """What became of everything that was read, a line each: for the screen and for the files."""
        _, images = self.largest_case  # its name stays here: cards, which leave the house, repeat these lines
        out = self.read - self.used
        total = sum(self.cases.values())
        return [
            f"{self.read:,} {self.unit} read = {self.used:,} used + {out:,} left out",
            *(f"- {item.count:,} left out: {item.reason}" for item in self.left_out),
            f"- {total:,} cases; the largest has {images:,} images ({images / self.used:.1%})",
            *([f"- split: {self.how}"] if self.how else []),
            *(f"- {note}" for note in self.notes),
            *self._untrained(),
        ]

    def _untrained(self) -> list[str]:
        names = [repr(item.condition) for item in self.missing if item.split == "train"]
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        return [f"- without a training image, and ranked all the same: {', '.join(names[:3])}{more}"] if names else []

    def __str__(self) -> str:
        def numbers(values: dict[str, int]) -> str:
            return "".join(f"{values[name]:>8,}" for name in SPLITS)

        def bits(values: dict[str, float]) -> str:
            return "".join(f"{values[name]:>8.4f}" for name in SPLITS)

        width = max(len("divergence, first condition (bits)"), *(len(name) for name in self.counts))
        lines = [
            f"Split {self.hash[:12]} of {self.source}",
            *self.account(),
            "",
            f"{'':{width}}" + "".join(f"{name:>8}" for name in SPLITS),
            f"{'images':{width}}{numbers(self.images)}",
            f"{'cases':{width}}{numbers(self.cases)}",
            f"{'divergence, all labels (bits)':{width}}{bits(self.divergence)}",
            f"{'divergence, first condition (bits)':{width}}{bits(self.primary_divergence)}",
            f"{'groups in several splits':{width}}{len(self.straddling):>8,}",
            "",
            *(f"{name:{width}}{numbers(counts)}" for name, counts in self.counts.items()),
        ]
        if self.missing:
            lines += ["", "Missing:"]
            lines += [f"- {item.condition} from {item.split}: {item.reason}" for item in self.missing]
        return "\n".join(lines) + "\n"


def report_split(
    table: ImageTable, parts: np.ndarray, groups: np.ndarray, split_hash: str, how: str = ""
) -> SplitReport:
    """Counts what a split did; ``groups`` is ``[N]``, what should not be separated; ``how`` it was made, in a line."""
    listed = table.labels > 0
    primary = listed & np.eye(len(table.conditions), dtype=bool)[table.frame["primary"].to_numpy()]
    order = np.argsort(-listed.sum(axis=0), kind="stable")
    cases = table.cases
    return SplitReport(
        source=table.source,
        unit=table.unit,
        read=table.read,
        used=len(table),
        left_out=list(table.left_out),
        hash=split_hash,
        images={name: int((parts == name).sum()) for name in SPLITS},
        cases={name: len(np.unique(cases[parts == name])) for name in SPLITS},
        counts=_counts(table.conditions, order, listed, parts),
        primary_counts=_counts(table.conditions, order, primary, parts),
        divergence={name: label_divergence(listed[parts == name], listed) for name in SPLITS},
        primary_divergence={name: label_divergence(primary[parts == name], primary) for name in SPLITS},
        straddling=straddling_groups(groups, parts),
        missing=_missing(table.conditions, listed, parts, groups),
        largest_case=largest_case(cases),
        notes=list(table.notes),
        provenance=table.provenance,
        how=how,
        people={name: _by_value(table.frame[name].to_numpy(dtype=str), parts, cases) for name in PEOPLE},
    )


def label_divergence(labels: np.ndarray, whole: np.ndarray) -> float:
    """Jensen-Shannon divergence, in bits, between the label shares of a part and of the whole.

    A label's share is its number of images over the number of all labels listed. Source: Lin, IEEE Transactions on
    Information Theory 1991; `scipy.spatial.distance.jensenshannon` is its square root.
    """
    return float(jensenshannon(labels.sum(axis=0), whole.sum(axis=0), base=2) ** 2)


def _counts(
    conditions: tuple[str, ...], order: np.ndarray, listed: np.ndarray, parts: np.ndarray
) -> dict[str, dict[str, int]]:
    by_split = {name: listed[parts == name].sum(axis=0) for name in SPLITS}
    return {conditions[c]: {name: int(by_split[name][c]) for name in SPLITS} for c in order}


def _by_value(values: np.ndarray, parts: np.ndarray, cases: np.ndarray) -> dict[str, dict[str, tuple[int, int]]]:
    known = sorted(np.unique(values).tolist(), key=lambda value: (not value, value))  # the unknown ones last

    def count(chosen: np.ndarray) -> tuple[int, int]:
        return int(chosen.sum()), len(np.unique(cases[chosen]))

    return {value: {name: count((values == value) & (parts == name)) for name in SPLITS} for value in known}


def _missing(
    conditions: tuple[str, ...], listed: np.ndarray, parts: np.ndarray, groups: np.ndarray
) -> list[MissingCondition]:
    found = []
    for column, condition in enumerate(conditions):
        has = listed[:, column]
        cases = len(np.unique(groups[has]))
        for name in SPLITS:
            if not has[parts == name].any():
                if cases == 0:
                    reason = "no image that is left lists it"
                elif cases < len(SPLITS):
                    reason = f"its images are of {cases} {'case' if cases == 1 else 'cases'}, too few for three splits"
                else:
                    reason = f"none of its {cases} cases was placed there"
                found.append(MissingCondition(condition, name, cases, reason))
    return found
