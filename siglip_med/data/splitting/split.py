"""Splits by case, stratified over many labels, so that no person is in two splits and no condition is lost."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from pydantic import Field, NonNegativeInt

from siglip_med.core.csv_reading import read_csv
from siglip_med.core.errors import UserError
from siglip_med.core.files import write_csv
from siglip_med.core.seals import check_sidecar
from siglip_med.data.splitting.report import SplitReport, report_split
from siglip_med.data.splitting.stratification import leak_groups, straddling_groups, stratify
from siglip_med.data.table import SPLITS, ImageTable

_COLUMNS = ["image_id", "case", "split"]


@runtime_checkable
class Splitter(Protocol):
    """How train, val and test are formed."""

    def parts(self, table: ImageTable, seed: int) -> np.ndarray:
        """``[N]`` str: the split of each row."""


@dataclass(frozen=True)
class Split:
    """Which image is in which split.

    Attributes:
        image_ids: ``[N]`` str, in the table's order.
        cases: ``[N]`` str.
        parts: ``[N]`` str: train, val or test.
        how: what made it, in a line.
    """

    image_ids: np.ndarray
    cases: np.ndarray
    parts: np.ndarray
    how: str = ""

    @cached_property
    def train(self) -> np.ndarray:
        """Rows of the training split, ascending."""
        return np.flatnonzero(self.parts == "train")

    @cached_property
    def val(self) -> np.ndarray:
        """Rows of the validation split, ascending."""
        return np.flatnonzero(self.parts == "val")

    @cached_property
    def test(self) -> np.ndarray:
        """Rows of the test split, ascending."""
        return np.flatnonzero(self.parts == "test")

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the sorted pairs of image id and split: the same for the same split in any row order."""
        pairs = sorted(zip(self.image_ids.tolist(), self.parts.tolist(), strict=True))
        return hashlib.sha256("\n".join(f"{image}\t{part}" for image, part in pairs).encode()).hexdigest()

    def report(self, table: ImageTable) -> SplitReport:
        """Counts, divergences, straddling groups and missing conditions of this split of ``table``."""
        return report_split(table, self.parts, leak_groups(table), self.hash, self.how)

    def save(self, path: Path) -> None:
        """Writes ``image_id, case, split`` as CSV; in place only when whole."""
        columns = (self.image_ids.tolist(), self.cases.tolist(), self.parts.tolist())
        write_csv(path, _COLUMNS, zip(*columns, strict=True))

    @classmethod
    def load(cls, path: Path, table: ImageTable) -> "Split":
        """Reads a saved split and brings it into the table's order.

        Raises:
            UserError: no such file, a column is missing, or its images are not the table's.
        """
        check_sidecar(path)
        text = read_csv(path, required=_COLUMNS)
        saved: dict[tuple[str, str], str] = {}
        for number, row in text.numbered():
            key = (row["image_id"], row["case"])
            if row["split"] not in SPLITS:
                raise UserError(f"{text.where(number)}: split {row['split']!r} is none of {', '.join(SPLITS)}")
            if key in saved:
                raise UserError(f"{text.where(number)}: image {key[0]!r} stands in it twice; keep one row")
            saved[key] = row["split"]
        keys = list(zip(table.frame["image_id"].tolist(), table.cases.tolist(), strict=True))
        absent = [key for key in keys if key not in saved]
        extra = set(saved) - set(keys)
        if absent or extra:
            first = absent[0] if absent else min(extra)
            raise UserError(
                f"{path}: is the split of other data: {len(absent):,} images of {table.source} are not in it and "
                f"{len(extra):,} of its own are not in the data, the first {first[0]!r} of case {first[1]!r}"
            )
        return _split(table, np.array([saved[key] for key in keys]), f"as in {path.name}, a file of an earlier split")


def make_split(table: ImageTable, splitter: Splitter, seed: int) -> Split:
    """Splits a table.

    Args:
        table: what to split.
        splitter: how.
        seed: the same seed gives the same split, whatever the order of the rows.

    Raises:
        UserError: a split would be empty, a given one separates what belongs together, or the data comes with a split
            that would be passed over.
    """
    _check_given(table, splitter)
    parts = _parts(table, splitter, seed)
    for name in SPLITS:
        if not (parts == name).any():
            raise UserError(f"{table.source}: no image is in {name}; give more cases or other data.splitter settings")
    own = type(splitter).__str__ is object.__str__  # of somebody's own, which says nothing
    return _split(table, parts, f"{type(splitter).__name__ if own else splitter}, seed {seed}")


def _parts(table: ImageTable, splitter: Splitter, seed: int) -> np.ndarray:
    """``[N]`` str; groups with an image of which no single condition is known are for training."""
    if not table.only_broad.any():
        return splitter.parts(table, seed)
    groups = leak_groups(table)
    training = np.isin(groups, groups[table.only_broad])
    parts = np.full(len(table), "train", dtype="U5")
    if not training.all():
        parts[~training] = splitter.parts(table.take(~training), seed)
    return parts


def _check_given(table: ImageTable, splitter: Splitter) -> None:
    """A split that the data set comes with is used, or passed over knowingly: its test images are not for training."""
    given = table.frame["source_split"]
    if (given == "").all() or isinstance(splitter, GivenSplitter) or getattr(splitter, "ignore_given", False):
        return
    counts = ", ".join(f"{name} {(given == name).sum():,}" for name in SPLITS if (given == name).any())
    raise UserError(
        f"{table.source}: comes with a split of its own ({counts}), which {type(splitter).__name__} would pass over: "
        "take it with data/splitter=given, or set data.splitter.ignore_given=true"
    )


def _split(table: ImageTable, parts: np.ndarray, how: str) -> Split:
    return Split(table.frame["image_id"].to_numpy(dtype=str), table.cases, parts.astype(str), how)


@dataclass(frozen=True)
class GroupStratifiedSplitter:
    """Random split by case with the same share of every condition in each part.

    Rare conditions are placed first, so that each has a case in train, then in test, then in val, as far as its cases
    go. The other cases follow by iterative stratification (Sechidis et al. 2011, library iterative-stratification),
    and single cases are then moved for as long as that brings the counts of images per condition nearer to their
    shares and takes no condition's last case out of a part.

    Args:
        fractions: of the images in train, val and test; they sum to 1.
        ignore_given: split anew where the data set comes with a split.
    """

    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    ignore_given: bool = False

    def __post_init__(self) -> None:
        if len(self.fractions) != 3 or min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise UserError(f"data.splitter.fractions: {list(self.fractions)} are not three shares that sum to 1")

    def __str__(self) -> str:
        """``70/15/15 by case, stratified``."""
        return f"{'/'.join(f'{100 * share:g}' for share in self.fractions)} by case, stratified"

    def parts(self, table: ImageTable, seed: int) -> np.ndarray:
        """``[N]`` str: the split of each row."""
        # coverage is wanted in this order: what is in no training image cannot be learned, then it is to be judged
        order = ("train", "test", "val")
        shares = dict(zip(SPLITS, self.fractions, strict=True))
        return np.array(order)[stratify(table, [shares[name] for name in order], seed)]


@dataclass(frozen=True)
class KFoldSplitter:
    """Stratified k-fold by case: fold ``fold`` is test, the next one is val, the others are train.

    Over all folds each image is tested exactly once; so a condition with fewer than three cases is missing from
    train in some folds, which the report says.

    Args:
        folds: how many, at least 3.
        fold: which of them is test, from 0.
        ignore_given: split anew where the data set comes with a split.
    """

    folds: Annotated[int, Field(ge=3)] = 5
    fold: NonNegativeInt = 0
    ignore_given: bool = False

    def __post_init__(self) -> None:
        if self.folds < 3 or not 0 <= self.fold < self.folds:
            raise UserError(f"data.splitter: fold {self.fold} of {self.folds} is none; give 0 to {self.folds - 1}")

    def __str__(self) -> str:
        """``fold 0 of 5 by case, stratified``."""
        return f"fold {self.fold} of {self.folds} by case, stratified"

    def parts(self, table: ImageTable, seed: int) -> np.ndarray:
        """``[N]`` str: the split of each row."""
        fold = stratify(table, [1 / self.folds] * self.folds, seed)
        names = np.full(self.folds, "train", dtype="U5")
        names[self.fold], names[(self.fold + 1) % self.folds] = "test", "val"
        return names[fold]


@dataclass(frozen=True)
class GivenSplitter:
    """The split that the data set comes with.

    Args:
        val_fraction: share of the given training images to take for validation where the data set has none.
        allow_straddling: take a split that separates images of one case; the report counts them.
    """

    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    allow_straddling: bool = False

    def __str__(self) -> str:
        """``as the data set gives it, val 15% of its training cases``."""
        return "as the data set gives it" + f", val {self.val_fraction:.0%} of its training cases" * bool(
            self.val_fraction
        )

    def parts(self, table: ImageTable, seed: int) -> np.ndarray:
        """``[N]`` str: the split of each row.

        Raises:
            UserError: a row has no split, a case straddles, or there is no val and no ``val_fraction``.
        """
        parts = table.frame["source_split"].to_numpy(dtype="U5")
        missing = np.flatnonzero(parts == "")
        if len(missing):
            row = table.frame["source_row"].iloc[missing[0]]
            raise UserError(f"{table.source}, row {row}: has no split ({len(missing):,} rows); name the split column")
        straddling = straddling_groups(leak_groups(table), parts)
        if straddling and not self.allow_straddling:
            raise UserError(
                f"{table.source}: its split separates images of {len(straddling):,} cases, "
                f"the first {straddling[0]!r}; split by case instead or set data.splitter.allow_straddling=true"
            )
        if (parts == "val").any():
            if self.val_fraction > 0:
                raise UserError(f"{table.source}: has a val split; set data.splitter.val_fraction=0")
            return parts
        if self.val_fraction == 0:
            raise UserError(f"{table.source}: its split has no val; set data.splitter.val_fraction, e.g. to 0.15")
        train = np.flatnonzero(parts == "train")
        chosen = stratify(table, [1 - self.val_fraction, self.val_fraction], seed, rows=train)
        parts[train[chosen == 1]] = "val"
        return parts
