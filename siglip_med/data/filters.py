"""Leaves conditions and rows out of a table, renames and merges conditions, and counts what each does."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from siglip_med.core.errors import UserError
from siglip_med.data.accounting import LeftOut, sum_up
from siglip_med.data.table import ImageTable


def keep_rows(table: ImageTable, mask: np.ndarray, reason: str, asked: bool = False) -> ImageTable:
    """The rows where ``mask`` is true, renumbered from 0; the others count as left out. A UserError if none is left."""
    if not mask.any():
        raise UserError(f"{table.source}: no image is left after the filters ({reason})")
    if mask.all():
        return table
    rows = tuple(table.frame["source_row"][~mask].tolist())
    left_out = sum_up([*table.left_out, LeftOut(reason, len(rows), asked, rows)])
    return replace(table.take(mask), left_out=left_out)


def keep_conditions(
    table: ImageTable,
    names: Sequence[str],
    reason: str = "none of the conditions kept",
    by: Literal["any", "primary"] = "any",
) -> ImageTable:
    """Keeps the images that list one of ``names`` (by ``primary``: first), and of their labels those in ``names``.

    The first condition of an image whose own is left out becomes the kept one of highest weight; ties go to the one
    that the fewest images list. So nothing depends on the order of columns. Weights stay as they are.

    Raises:
        UserError: a name that the table does not have, or no image is left.
    """
    if unknown := [name for name in names if name not in table.conditions]:
        have = ", ".join(table.conditions)
        raise UserError(f"{table.source}: no image has condition {', '.join(map(repr, unknown))}; there are {have}")
    keep = np.array([name in set(names) for name in table.conditions])
    if keep.all():
        return table
    first = keep[table.frame["primary"].to_numpy()]
    mask = first if by == "primary" else np.asarray((table.labels[:, keep] > 0).any(axis=1))
    kept = keep_rows(table, mask, reason, asked=True)
    primary = kept.frame["primary"].to_numpy()
    lost = ~keep[primary]
    if lost.any():
        counts = (table.labels > 0).sum(axis=0)
        order = sorted(np.flatnonzero(keep), key=lambda column: (counts[column], table.conditions[column]))
        best = np.array(order)[np.argmax(kept.labels[:, order], axis=1)]
        primary = np.where(lost, best, primary)
        kept = kept.with_notes(f"{lost.sum():,} images get another first condition, since theirs is left out")
    place = np.cumsum(keep) - 1
    left = tuple(name for name, is_kept in zip(table.conditions, keep, strict=True) if is_kept)
    frame = kept.frame.assign(primary=place[primary])
    return replace(kept, frame=frame, labels=kept.labels[:, keep], conditions=left)


def drop_rare_conditions(table: ImageTable, minimum_images: int) -> ImageTable:
    """Leaves out conditions listed on fewer than ``minimum_images`` images; a UserError where all are."""
    while True:
        counts = (table.labels > 0).sum(axis=0)
        rare = counts < minimum_images
        if not rare.any():
            return table
        if rare.all():
            raise UserError(
                f"{table.source}: no condition has {minimum_images:,} images (the most common has "
                f"{counts.max():,}); lower data.source.minimum_images"
            )
        common = [name for name, is_rare in zip(table.conditions, rare, strict=True) if not is_rare]
        note = f"{rare.sum()} conditions with fewer than {minimum_images} images are left out"
        reason = f"only conditions with fewer than {minimum_images} images"
        table = keep_conditions(table, common, reason).with_notes(note)


def rename_conditions(weights: Mapping[str, float], aliases: Mapping[str, str | None]) -> dict[str, float]:
    """One image's conditions under other names (None: left out); of names that become one the higher weight stays."""
    renamed: dict[str, float] = {}
    for name, weight in weights.items():
        new = aliases.get(name, name)
        if new is not None:
            renamed[new] = max(weight, renamed.get(new, 0.0))
    return renamed
