"""The one table that every source becomes, whatever its files looked like."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from siglip_med.core.csv_reading import control_character
from siglip_med.core.errors import Faults, UserError
from siglip_med.core.provenance import Provenance
from siglip_med.data.accounting import LeftOut, format_counts, sum_up
from siglip_med.data.values import SKIN_TONES

TEXT_COLUMNS = ("image", "image_id", "case", "description", "skin_tone", "sex", "age_group", "site", "source_split")
"""Columns of `ImageTable.frame` that hold text; unknown is the empty string, never a made-up value."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ImageTable:
    """One row per image.

    Attributes:
        frame: index 0..N-1; columns `TEXT_COLUMNS` plus ``primary`` (int, the image's first condition) and
            ``source_row`` (int, 1-based row in the file it came from, header not counted; for error messages).
            ``image`` is a path relative to ``root``; ``case`` is the group that never straddles a split;
            ``skin_tone`` is a Fitzpatrick type "1" to "6", or "1-2", "3-4", "5-6" where a data set says no more;
            ``source_split`` is "", "train", "val" or "test".
        labels: ``[N, C]`` float32 in [0, 1].
        conditions: the C condition names, in the order of the label columns.
        root: folder that the image paths are relative to.
        source: file or folder that the table came from, for error messages.
        notes: what was changed on the way here and why, one sentence each, with counts.
        left_out: what the source has and the table has not, by reason; with the rows of the table this is everything
            that was read.
        unit: what was counted: rows of a file, images, files of a folder.
        provenance: drawings or photographs, of which data set, under which license.
        thumbnails: whether the data's licence lets a run keep and show small copies of its images.
        broad: names of the conditions below each of K labels that stand above several.
        broad_labels: ``[N, K]`` float32 in [0, 1], the weights of these; None where K is 0. An image that has no other
            label is for training alone; its ``primary`` is the first condition below.
    """

    frame: pd.DataFrame
    labels: np.ndarray
    conditions: tuple[str, ...]
    root: Path
    source: str = ""
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    unit: str = "rows"
    provenance: Provenance = field(default_factory=Provenance)
    thumbnails: bool = False
    broad: tuple[tuple[str, ...], ...] = ()
    broad_labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def digest(self) -> str:
        """Sixteen hexadecimal digits: the hash of all rows and labels in their order."""
        rows = pd.util.hash_pandas_object(self.frame, index=False).to_numpy()
        labels = [self.labels] if self.broad_labels is None else [self.labels, self.broad_labels]
        parts = [rows.tobytes(), *(np.ascontiguousarray(part).tobytes() for part in labels)]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def take(self, rows: np.ndarray) -> "ImageTable":
        """The rows at ``[n]`` positions, or where ``[N]`` bools are true, renumbered from 0."""
        frame = self.frame.iloc[np.flatnonzero(rows) if rows.dtype == bool else rows].reset_index(drop=True)
        broad = None if self.broad_labels is None else self.broad_labels[rows]
        return replace(self, frame=frame, labels=self.labels[rows], broad_labels=broad)

    @property
    def only_broad(self) -> np.ndarray:
        """``[N]`` bool: the image has no label but such that stand above several conditions."""
        return np.asarray((self.labels <= 0).all(axis=1))

    def broad_members(self) -> np.ndarray:
        """``[K, C]`` bool: the conditions below each of the K labels that stand above several."""
        return np.array([[name in below for name in self.conditions] for below in self.broad]).reshape(
            len(self.broad), len(self.conditions)
        )

    @property
    def cases(self) -> np.ndarray:
        """``[N]`` case of each image, as text."""
        return self.frame["case"].to_numpy(dtype=str)

    @property
    def read(self) -> int:
        """Number of rows (see ``unit``) that the source has: those of the table and those left out."""
        return len(self) + sum(item.count for item in self.left_out)

    def with_notes(self, *notes: str) -> "ImageTable":
        """The same table with more sentences on what happened to it."""
        return replace(self, notes=(*self.notes, *notes))


@dataclass(frozen=True)
class TableRow:
    """What a source knows of one image, before it is checked by `build_table`.

    Attributes:
        image: path relative to the root, with forward slashes.
        weights: weight of each listed condition, in the order listed; 0 means not listed.
        source_row: 1-based row of the source's file, header not counted.
        image_id: a name for the image; the path where it is empty.
        case: group that must stay together; the image itself where it is empty.
    """

    image: str
    weights: Mapping[str, float]
    source_row: int
    image_id: str = ""
    case: str = ""
    description: str = ""
    skin_tone: str = ""
    sex: str = ""
    age_group: str = ""
    site: str = ""
    source_split: str = ""


def build_table(
    rows: Sequence[TableRow],
    *,
    root: Path,
    source: str,
    conditions: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    left_out: Sequence[LeftOut] = (),
    unit: str = "rows",
    grouped: bool = False,
    ordered: bool = True,
    raw_labels: Mapping[int, str] | None = None,
) -> ImageTable:
    """Checks rows and makes them the table; rows without a condition are left out and counted.

    The primary condition is the one of highest weight. Ties go to the first listed, or, where the order means nothing
    (``ordered=False``, the columns of a spreadsheet), to the condition that the fewest rows list, then by name.

    Args:
        rows: one per image.
        root: folder that the image paths are relative to.
        source: file or folder the rows came from, for messages.
        conditions: order of the label columns; names in alphabetical order where None.
        notes: sentences to put before the table's own.
        left_out: what the source left out before.
        unit: what is counted, see `ImageTable`.
        grouped: whether the source says whose an image is; rows without a case are then noted.
        ordered: whether the order of a row's conditions means something.
        raw_labels: text of the label field by ``source_row``, for rows without a condition; quoted in the counts.

    Raises:
        UserError: no row, no labeled row, a path that leaves the root, a weight that is no number in [0, 1],
            a value that the table cannot hold, or an image that one case lists twice. Names file and row.
    """
    if not rows:
        why = "; ".join(f"{item.count:,} left out: {item.reason}" for item in sum_up(left_out))
        raise UserError(f"{source}: holds no row below its header{f' ({why})' if why else ''}; give at least one image")
    _check_rows(rows, source)
    labeled = [row for row in rows if any(row.weights.values())]
    empty = tuple(row.source_row for row in rows if not any(row.weights.values()))
    without = [(raw_labels or {}).get(number, "") for number in empty]
    if not labeled:
        raise UserError(
            f"{source}: none of its {len(rows):,} {unit} has a condition ({format_counts(without)}); "
            "check the condition column"
        )
    dropped = [*left_out]
    if without:
        spelled = f" ({format_counts(without)})" if any(without) else ""
        dropped.append(LeftOut(f"no condition{spelled}", len(empty), rows=empty))
    listed = Counter(name for row in labeled for name, weight in row.weights.items() if weight > 0)
    names = tuple(sorted(listed, key=lambda name: (name.casefold(), name)) if conditions is None else conditions)
    column = {name: position for position, name in enumerate(names)}
    labels = np.zeros((len(labeled), len(names)), dtype=np.float32)
    primary = np.zeros(len(labeled), dtype=np.int64)
    for position, row in enumerate(labeled):
        for name, weight in row.weights.items():
            if weight > 0:
                labels[position, column[name]] = weight
        present = row.weights if ordered else sorted(row.weights, key=lambda name: (listed[name], name))
        primary[position] = column[max(present, key=lambda name: row.weights[name])]
    text = {name: [getattr(row, name) for row in labeled] for name in TEXT_COLUMNS}
    text["image_id"] = [row.image_id or row.image for row in labeled]
    text["case"] = [row.case or row.image for row in labeled]
    alone = sum(not row.case for row in labeled) if grouped else 0
    notes = list(notes)
    if alone:
        notes.append(
            f"{alone:,} of {len(labeled):,} images do not say whose they are: each is its own case, which leaks where "
            "a patient has several"
        )
    frame = pd.DataFrame(text, dtype=object)
    frame["primary"] = primary
    frame["source_row"] = np.array([row.source_row for row in labeled], dtype=np.int64)
    return ImageTable(frame, labels, names, root, source, tuple(notes), sum_up(dropped), unit)


def _check_rows(rows: Sequence[TableRow], source: str) -> None:
    seen: dict[tuple[str, str], int] = {}
    faults = Faults()
    for row in rows:
        with faults.catching():
            _check_row(row, f"{source}, row {row.source_row}", seen)
    faults.stop()


def _check_row(row: TableRow, where: str, seen: dict[tuple[str, str], int]) -> None:
    """Checks one row; ``seen`` has the row of each image of each case that was checked before."""
    check_image_path(row.image, where)
    for name, weight in row.weights.items():
        if not name.strip():
            raise UserError(f"{where}: a condition has an empty name; remove the stray separator")
        if not math.isfinite(weight) or not 0 <= weight <= 1:
            raise UserError(f"{where}: the weight of {name!r} is {weight}; a weight is a number from 0 to 1")
    for text in (*(getattr(row, name) for name in TEXT_COLUMNS), *row.weights):
        if not text.isprintable() and (odd := control_character(text)) is not None:
            raise UserError(f"{where}: {text[:40]!r} holds the control character {odd!r}; remove it")
    if row.skin_tone not in SKIN_TONES:
        raise UserError(f"{where}: skin tone {row.skin_tone!r} is none of {', '.join(SKIN_TONES[1:])}")
    if row.source_split not in ("", *SPLITS):
        raise UserError(f"{where}: split {row.source_split!r} is none of {', '.join(SPLITS)}")
    key = (row.case or row.image, str(PurePosixPath(row.image)))
    if key in seen:
        raise UserError(
            f"{where}: {row.image} is listed already in row {seen[key]}; keep one row per image, "
            "with all its conditions in it"
        )
    seen[key] = row.source_row


def check_image_path(image: str, where: str) -> None:
    """A UserError, begun by ``where``, for a path that is empty, absolute, unprintable or leads out of the root."""
    if not image.strip():
        raise UserError(f"{where}: the image path is empty; give a path relative to the root folder")
    if not image.isprintable():
        raise UserError(f"{where}: the image path {image!r} holds a character that no file name should have")
    depth = 0
    path = PurePosixPath(image.replace("\\", "/"))
    drive = len(image) > 1 and image[1] == ":"
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0 or path.is_absolute() or drive:
            raise UserError(f"{where}: the image path {image!r} leads out of the root folder; give a path inside it")
