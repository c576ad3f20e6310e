"""What became of every row of a data set: used, or left out for a reason that is counted."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class LeftOut:
    """Rows that are not in a table.

    Attributes:
        reason: why, as it stands behind "left out:".
        count: how many.
        asked: whether a setting of the user asked for it (a filter), so that no one need be warned.
        rows: 1-based numbers of theirs in the source's file, where it is one table; else empty.
    """

    reason: str
    count: int
    asked: bool = False
    rows: tuple[int, ...] = field(default=(), compare=False, repr=False)


def sum_up(left_out: Sequence[LeftOut]) -> tuple[LeftOut, ...]:
    """One entry per reason, in the order of first mention; none with a count of 0."""
    counts, rows = Counter[tuple[str, bool]](), defaultdict[tuple[str, bool], list[int]](list)
    for item in left_out:
        counts[item.reason, item.asked] += item.count
        rows[item.reason, item.asked] += item.rows
    return tuple(LeftOut(key[0], count, key[1], tuple(rows[key])) for key, count in counts.items() if count)


def largest_case(cases: np.ndarray) -> tuple[str, int]:
    """The case with the most images, the first by name of several, and how many it has."""
    names, counts = np.unique(cases, return_counts=True)
    return str(names[counts.argmax()]), int(counts.max())


def format_counts(values: Sequence[str], limit: int = 3) -> str:
    """The values that differ, the most frequent first, with their counts, for a message: ``'unknown' 3, '' 2``."""
    counts = Counter(values)
    order = sorted(counts, key=lambda value: (-counts[value], value))
    named = [f"{'empty' if not value else repr(value)} {counts[value]:,}" for value in order[:limit]]
    return ", ".join(named) + (f" and {len(order) - limit:,} more" if len(order) > limit else "")
