"""Progress of what takes long: a bar on a terminal, lines in a log file or in redirected output."""

import logging
import time
from collections.abc import Iterable, Iterator, Sized
from datetime import timedelta
from typing import TypeVar

from rich.progress import MofNCompleteColumn, Progress

from siglip_med.core.outside import Console

logger = logging.getLogger(__name__)

EVERY_SECONDS = 30.0
"""At most one line in so many seconds, and one at the end."""

Item = TypeVar("Item")


def tracked(
    items: Iterable[Item], description: str, unit: str = "batches", shown: bool = True, total: int | None = None
) -> Iterator[Item]:
    """Yields items, and prints how many of them are done.

    Args:
        items: what is worked on, one after the other.
        description: what is done to them, e.g. ``predicting val``.
        unit: what ``items`` are.
        shown: whether anything is printed.
        total: number of items, where ``items`` has no length; None: unknown.
    """
    if not shown:
        yield from items
        return
    total = len(items) if isinstance(items, Sized) else total
    if Console().is_terminal:
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), transient=True) as progress:
            yield from progress.track(items, description=description, total=total)
        return
    started = printed = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - printed >= EVERY_SECONDS:
            printed = now
            logger.info("%s: %s", description, _position(done, total, unit, now - started))
    taken = time.monotonic() - started
    logger.info("%s: done, %s %s in %.1f s", description, f"{done:,}", unit, taken)


def _position(done: int, total: int | None, unit: str, seconds: float) -> str:
    if not total:
        return f"{done:,} {unit}"
    left = timedelta(seconds=round(seconds / done * max(0, total - done)))
    return f"{done:,} of {total:,} {unit}, {left} left"
