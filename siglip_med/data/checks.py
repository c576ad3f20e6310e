"""Finds what would make a result wrong before training: vanished conditions, giant cases, copies in several cases."""

from dataclasses import replace

import numpy as np

from siglip_med.core.errors import UserError
from siglip_med.core.shell import mapping
from siglip_med.data.accounting import largest_case
from siglip_med.data.near_duplicates import merge_groups
from siglip_med.data.table import ImageTable

_ALL_ALIKE = 8


def check_table(table: ImageTable, max_left_out: float, max_case_share: float) -> None:
    """Stops where too little is left of a data set, or where one case is most of it (from 8 images on).

    Raises:
        UserError: too many rows are left out, a condition has no image left, or a case is too large.
    """
    unasked = [item for item in table.left_out if not item.asked]
    missing = sum(item.count for item in unasked)
    if missing > max_left_out * table.read:
        why = "; ".join(f"{item.count:,} {item.reason}" for item in unasked)
        raise UserError(
            f"{table.source}: {missing:,} of {table.read:,} {table.unit} are left out ({why}), more than the share of "
            f"{max_left_out:g} that data.max_left_out allows; mend the data or raise it"
        )
    vanished = [table.conditions[column] for column in np.flatnonzero((table.labels > 0).sum(axis=0) == 0)]
    if vanished:
        raise UserError(
            f"{table.source}: no image is left of {', '.join(map(repr, vanished))}; mend the files, or leave "
            f"the condition out: {left_out_word(vanished[0])}"
        )
    case, images = largest_case(table.cases)
    if len(table) >= _ALL_ALIKE and images > max_case_share * len(table):
        raise UserError(
            f"{table.source}: case {case!r} holds {images:,} of {len(table):,} images, more than the share of "
            f"{max_case_share:g} that data.max_case_share allows; if the name means that nothing is known, leave the "
            "cells empty, else raise it"
        )


def left_out_word(name: str) -> str:
    """The setting that leaves a condition out, as one types it in a shell."""
    word = mapping("data.source.aliases", {name: None})
    return word or f"data.source.aliases=@aliases.csv, a table with the row {name!r} and nothing behind it"


def join_identical(table: ImageTable, records: np.ndarray) -> ImageTable:
    """Merges the cases of byte-identical images (of equal ``[N]`` records), so that no split separates them."""
    _, first, index = np.unique(records, return_index=True, return_inverse=True)
    pairs = np.stack([first[index], np.arange(len(records))], axis=1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    if not len(pairs):
        return table
    merged = merge_groups(table.cases, pairs)
    before, after = len(np.unique(table.cases)), len(np.unique(merged))
    note = f"{len(pairs):,} images are byte-identical copies of others"
    contradicting = int((table.labels[pairs[:, 0]] != table.labels[pairs[:, 1]]).any(axis=1).sum())
    if contradicting:
        note += f"; {contradicting:,} of them have other conditions than the first of their kind"
    if after < before:
        note += f"; their cases are joined, {before:,} to {after:,}"
    return replace(table, frame=table.frame.assign(case=merged.astype(object))).with_notes(note)
