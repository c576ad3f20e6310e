"""Leaves conditions and rows out of a table, and says how many."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from siglip_med.data.table import ImageTable
from siglip_med.errors import UserError


def keep_rows(table: ImageTable, mask: np.ndarray, note: str = "") -> ImageTable:
    """The rows where ``mask`` is true, renumbered from 0; columns stay.

    Args:
        table: what to choose from.
        mask: ``[N]`` bool.
        note: sentence to add to the table's notes.

    Raises:
        UserError: no row is left.
    """
    if not mask.any():
        raise UserError(f"{table.source}: no image is left after the filters ({note or 'none passes'})")
    kept = replace(table, frame=table.frame[mask].reset_index(drop=True), labels=table.labels[mask])
    return kept.with_notes(note) if note else kept


def keep_conditions(table: ImageTable, names: Sequence[str]) -> ImageTable:
    """Keeps the images whose primary condition is one of ``names``, and of their labels those in ``names``.

    Column order is the table's own. A label that is left out changes no other weight.

    Raises:
        UserError: a name that the table does not have, a name given twice, or no image is left.
    """
    unknown = [name for name in names if name not in table.conditions]
    if unknown:
        have = ", ".join(table.conditions)
        raise UserError(f"{table.source}: no image has condition {unknown[0]!r}; there are {have}")
    keep = np.array([name in set(names) for name in table.conditions])
    if keep.all():
        return table
    mask = keep[table.frame["primary"].to_numpy()]
    note = f"{(~mask).sum():,} images whose first condition is none of the {keep.sum()} kept are left out"
    kept = keep_rows(table, mask, note)
    position = np.cumsum(keep) - 1
    frame = kept.frame.assign(primary=position[kept.frame["primary"].to_numpy()])
    names_kept = tuple(name for name, kept_ in zip(table.conditions, keep, strict=True) if kept_)
    return replace(kept, frame=frame, labels=kept.labels[:, keep], conditions=names_kept)


def drop_rare_conditions(table: ImageTable, minimum_images: int) -> ImageTable:
    """Leaves out conditions listed on fewer than ``minimum_images`` images, until none is that rare.

    Raises:
        UserError: no condition is that common.
    """
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
        table = keep_conditions(table, common).with_notes(note)
