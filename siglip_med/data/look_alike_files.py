"""Look-alikes on disk: pairs that a person looks through and marks, and the group column that follows from them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from siglip_med.core.csv_reading import read_csv
from siglip_med.core.errors import UserError
from siglip_med.core.files import write_csv
from siglip_med.data.joining import join_look_alikes
from siglip_med.data.look_alikes import Agreement, Pairs, label_agreement, look_alike_pairs, many_pairs, whitened
from siglip_med.data.near_duplicates import merge_groups
from siglip_med.data.table import ImageTable

COLUMN = "look_alike_group"
_MOST_LISTED, _BELOW = 2000, 0.05


@dataclass(frozen=True)
class LookAlikes:
    """Look-alikes in a whole table.

    Attributes:
        listed: ``image_a``, ``image_b``, ``cosine``, ``labels_a``, ``labels_b``, and a person's ``same`` (yes, no, "").
        rows: ``[K, 2]`` of these pairs.
        agreement: of labels, by cosine.
        threshold: given or proposed; None where there is neither, and then only what a person marked is joined.
        groups: ``[N]`` str.
        notes: what was done, one sentence each.
    """

    listed: pd.DataFrame
    rows: np.ndarray
    agreement: Agreement
    threshold: float | None
    groups: np.ndarray
    notes: tuple[str, ...]


def find_look_alikes(
    table: ImageTable, features: np.ndarray, threshold: float | None, hashed: np.ndarray, marked: Path | None = None
) -> LookAlikes:
    """Finds and joins the look-alikes of a table.

    Args:
        table: its cases are never split.
        features: ``[N, F]`` of a frozen tower.
        threshold: cosine; None for what the labels propose.
        hashed: ``[K, 2]`` rows that a perceptual hash joins.
        marked: the pairs of an earlier call as a CSV in which a person said yes or no.

    Raises:
        UserError: features without a direction, or a file of marks that is not of this table or says both.
    """
    values = whitened(features)
    many = many_pairs(values)
    agreement = label_agreement(many, table.cases, table.labels)
    threshold = threshold or agreement.proposed()
    said = {} if marked is None else _read_marks(marked, table)
    yes, no = (
        np.array([pair for pair, mark in said.items() if mark == of], int).reshape(-1, 2) for of in ("yes", "no")
    )
    groups = merge_groups(table.cases, np.concatenate([hashed, yes]))
    images, names = table.frame["image"].to_numpy(dtype=str), np.array(table.conditions)
    if len(torn := no[groups[no[:, 0]] == groups[no[:, 1]]]):
        raise UserError(
            f"{marked}: {images[torn[0, 0]]} and {images[torn[0, 1]]} are marked no, but their cases, their hashes or "
            "pairs marked yes join them; mend the marks, or near_duplicate_distance"
        )
    limit = 2.0 if threshold is None else threshold
    found = look_alike_pairs(values, limit)
    keep = ~np.isin(found.rows @ np.array([len(table), 1]), no @ np.array([len(table), 1]))
    linked = Pairs(found.rows[keep], found.cosines[keep], int(found.found - (~keep).sum()))
    joined, sentence = join_look_alikes(groups, linked, values, table.labels, limit, no)
    order = np.argsort(-many.cosines, kind="stable")
    other = table.cases[many.rows[order, 0]] != table.cases[many.rows[order, 1]]
    order = order[other & (many.cosines[order] >= (threshold or 0.0) - _BELOW)]
    notes = [f"look-alikes: {len(np.unique(table.cases)):,} cases, {len(np.unique(groups)):,} with hashes and marks"]
    notes += [sentence] if threshold else ["no threshold is proposed: give data.look_alikes_threshold"]
    notes += [f"{marked}: {len(yes):,} pairs marked yes, {len(no):,} marked no"] if said else []
    notes += (
        [f"the {_MOST_LISTED:,} most alike of {len(order):,} pairs are listed"] if len(order) > _MOST_LISTED else []
    )
    rows, cosines = many.rows[order[:_MOST_LISTED]], many.cosines[order[:_MOST_LISTED]]
    labels = np.array([" | ".join(names[row > 0]) for row in table.labels])
    pairs = {f"image_{end}": images[rows[:, place]] for place, end in enumerate("ab")} | {"cosine": cosines.round(4)}
    pairs |= {f"labels_{end}": labels[rows[:, place]] for place, end in enumerate("ab")}
    listed = pd.DataFrame(pairs | {"same": [said.get((a, b), "") for a, b in rows.tolist()]})
    return LookAlikes(listed, rows, agreement, threshold, joined, tuple(notes))


def _read_marks(path: Path, table: ImageTable) -> dict[tuple[int, int], str]:
    """Rows of the table, the smaller first, -> ``yes`` or ``no``."""
    text = read_csv(path, required=("image_a", "image_b", "same"))
    place = {image: row for row, image in enumerate(table.frame["image"])}
    found: dict[tuple[int, int], str] = {}
    for number, row in text.numbered():
        mark = row["same"].strip().lower()
        if mark not in ("", "yes", "no"):
            raise UserError(f"{text.where(number)}: same is {row['same']!r}; write yes, no, or nothing")
        if absent := [row[name] for name in ("image_a", "image_b") if row[name] not in place]:
            raise UserError(f"{text.where(number)}: {absent[0]!r} is no image of {table.source}")
        a, b = sorted((place[row["image_a"]], place[row["image_b"]]))
        if mark and found.setdefault((a, b), mark) != mark:
            raise UserError(f"{text.where(number)}: is marked {mark}, and {found[a, b]} in another row; keep one")
    return found


def save_groups(path: Path, table: ImageTable, groups: np.ndarray) -> None:
    """Writes the table's CSV anew with the column ``look_alike_group`` (rows left out have none); else image, group."""
    source = Path(table.source)
    if source.suffix.lower() != ".csv" or not source.is_file():
        write_csv(path, ("image", COLUMN), zip(table.frame["image"], groups.tolist(), strict=True))
        return
    text, of = read_csv(source), dict(zip(table.frame["source_row"].tolist(), groups.tolist(), strict=True))
    columns = [name for name in text.columns if name != COLUMN]
    rows = ([*(row[name] for name in columns), of.get(number, "")] for number, row in text.numbered())
    write_csv(path, (*columns, COLUMN), rows)
