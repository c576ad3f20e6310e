"""Look-alikes on disk: pairs that a person looks through and marks, and the group column that follows from them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siglip_med.core.csv_reading import read_csv
from siglip_med.core.errors import UserError
from siglip_med.core.files import write_csv
from siglip_med.data.joining import Joined, join_look_alikes
from siglip_med.data.look_alikes import Agreement, Pairs, label_agreement, look_alike_pairs, many_pairs, unit
from siglip_med.data.near_duplicates import merge_groups
from siglip_med.data.table import ImageTable

COLUMN = "look_alike_group"
MOST_LISTED = 2000
"""Pairs that are listed for a person to look through, the most alike first."""
_BELOW = 0.05
_COLUMNS = ("image_a", "image_b", "cosine", "labels_a", "labels_b", "same")


@dataclass(frozen=True)
class LookAlikes:
    """Look-alikes in a whole table.

    Attributes:
        pairs: of different cases, down to a little below the threshold, the most alike first: what a person looks at.
        agreement: of labels, by cosine.
        threshold: given or proposed; None where there is neither, and then nothing is joined.
        given: whether it was given.
        joined: the groups.
        notes: what was done, one sentence each.
        marks: ``[K]`` of each pair, ``yes``, ``no`` or "": what a person said.
    """

    pairs: Pairs
    agreement: Agreement
    threshold: float | None
    given: bool
    joined: Joined
    notes: tuple[str, ...]
    marks: tuple[str, ...]


def find_look_alikes(
    table: ImageTable, features: np.ndarray, threshold: float | None, hashed: np.ndarray, marked: Path | None = None
) -> LookAlikes:
    """Finds and joins the look-alikes of a table.

    Args:
        table: its cases are never split.
        features: ``[N, F]`` of a frozen tower.
        threshold: cosine; None for what the labels propose.
        hashed: ``[K, 2]`` rows that a perceptual hash joins.
        marked: a file of `save_pairs` in which a person said of pairs whether they show the same (``same``: yes, no).

    Raises:
        UserError: features without a direction, or a file of marks that is not of this table or says both.
    """
    values, given = unit(features), threshold is not None
    many = many_pairs(values)
    agreement = label_agreement(many, table.cases, table.labels)
    threshold = agreement.proposed() if threshold is None else threshold
    said = {} if marked is None else read_marks(marked, table)
    yes, no = (np.array([pair for pair, mark in said.items() if mark == of]).reshape(-1, 2) for of in ("yes", "no"))
    groups = merge_groups(table.cases, np.concatenate([hashed, yes]).astype(np.int64))
    for a, b in no.tolist():
        if groups[a] == groups[b]:
            names = table.frame["image"]
            raise UserError(
                f"{marked}: {names[a]} and {names[b]} are marked no, but their cases, their hashes or pairs marked yes "
                "join them; mend the marks, or near_duplicate_distance"
            )
    limit = 2.0 if threshold is None else threshold
    found = look_alike_pairs(values, limit)
    keep = ~np.isin(_key(found.rows, len(table)), _key(no, len(table)))
    linked = Pairs(found.rows[keep], found.cosines[keep], int(found.found - (~keep).sum()))
    joined = join_look_alikes(groups, linked, values, table.labels, limit, no)
    before = len(np.unique(table.cases))
    notes = [f"{before - len(np.unique(groups)):,} of {before:,} cases are joined by hash or by pairs marked yes"]
    notes += [] if threshold is None else [joined.sentence(linked, threshold)]
    notes += [f"{marked}: {len(yes):,} pairs marked yes, {len(no):,} marked no"] if said else []
    order = np.argsort(-many.cosines, kind="stable")
    other = table.cases[many.rows[order, 0]] != table.cases[many.rows[order, 1]]
    order = order[other & (many.cosines[order] >= (0.0 if threshold is None else threshold - _BELOW))]
    if len(order) > MOST_LISTED:
        notes.append(f"{len(order):,} pairs are near the threshold or above; the {MOST_LISTED:,} most alike are listed")
    order = order[:MOST_LISTED]
    shown = Pairs(many.rows[order], many.cosines[order], len(order))
    marks = tuple(said.get((a, b), "") for a, b in shown.rows.tolist())
    return LookAlikes(shown, agreement, threshold, given, joined, tuple(notes), marks)


def _key(pairs: np.ndarray, count: int) -> np.ndarray:
    return np.asarray(pairs[:, 0] * count + pairs[:, 1])


def save_pairs(path: Path, table: ImageTable, found: LookAlikes) -> None:
    """Writes the pairs as CSV, with an empty column ``same`` for a person's yes or no."""
    images, names = table.frame["image"].tolist(), np.array(table.conditions)
    listed = [" | ".join(names[row > 0]) for row in table.labels]
    rows = [
        (images[a], images[b], f"{cosine:.4f}", listed[a], listed[b], mark)
        for (a, b), cosine, mark in zip(found.pairs.rows.tolist(), found.pairs.cosines, found.marks, strict=True)
    ]
    write_csv(path, _COLUMNS, rows)


def read_marks(path: Path, table: ImageTable) -> dict[tuple[int, int], str]:
    """What a person said of pairs: rows of the table, the smaller first, -> ``yes`` or ``no``.

    Raises:
        UserError: no such file or column, an image that the table has not, or another word than yes, no or nothing.
    """
    text = read_csv(path, required=("image_a", "image_b", "same"))
    place = {image: row for row, image in enumerate(table.frame["image"])}
    found: dict[tuple[int, int], str] = {}
    for number, row in text.numbered():
        mark = row["same"].strip().lower()
        if mark not in ("", "yes", "no"):
            raise UserError(f"{text.where(number)}: same is {row['same']!r}; write yes, no, or nothing")
        absent = [row[name] for name in ("image_a", "image_b") if row[name] not in place]
        if absent:
            raise UserError(f"{text.where(number)}: {absent[0]!r} is no image of {table.source}")
        if mark:
            a, b = sorted((place[row["image_a"]], place[row["image_b"]]))
            if found.setdefault((a, b), mark) != mark:
                raise UserError(f"{text.where(number)}: is marked {mark}, and {found[a, b]} in another row; keep one")
    return found


def save_groups(path: Path, table: ImageTable, groups: np.ndarray) -> None:
    """Writes the table's CSV anew with the column ``look_alike_group``; of other sources image and group alone.

    Rows that the table left out have no group.
    """
    source = Path(table.source)
    if source.suffix.lower() != ".csv" or not source.is_file():
        write_csv(path, ("image", COLUMN), zip(table.frame["image"], groups.tolist(), strict=True))
        return
    text = read_csv(source)
    of = dict(zip(table.frame["source_row"].tolist(), groups.tolist(), strict=True))
    columns = [name for name in text.columns if name != COLUMN]
    write_csv(
        path,
        (*columns, COLUMN),
        ([*(row[name] for name in columns), of.get(number, "")] for number, row in text.numbered()),
    )
