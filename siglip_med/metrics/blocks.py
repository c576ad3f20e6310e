"""Rows in blocks: what a million images need between is then a few megabytes."""

from collections.abc import Iterator

ROWS = 8_192


def blocks(rows: int) -> Iterator[slice]:
    """Consecutive slices of at most `ROWS` rows."""
    return (slice(start, min(start + ROWS, rows)) for start in range(0, rows, ROWS))
