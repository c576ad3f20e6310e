"""A table without the rows that a run does not use, and those rows with the reason of each."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from siglip_med.core.config import Node, instantiate
from siglip_med.core.csv_reading import TextTable, raw_records
from siglip_med.core.errors import SeveralErrors, UserError
from siglip_med.core.files import write_csv
from siglip_med.core.image_spec import ImageSpec
from siglip_med.core.outside import say
from siglip_med.data.datamodule import BadImage, DataModule
from siglip_med.data.paths import removed_beside
from siglip_med.data.table import ImageTable


@dataclass(frozen=True)
class Unused:
    """Numbers of rows that a run does not use, from 1 below the header, with why: for a fault, a file that gives no
    image, or since they are left out (no condition, a filter)."""

    faults: dict[int, str]
    images: dict[int, str]
    left_out: dict[int, str]

    @property
    def reasons(self) -> dict[int, str]:
        """Of all of them."""
        return self.left_out | self.images | self.faults


_WRITTEN = {"encoding": "utf-8", "delimiter": ","}
"""Settings of a source for the tables that are written here."""
Read = Callable[[Path], tuple[ImageTable, Sequence[BadImage]]]
"""From the file of a table to the table and what of it gives no image."""


def clean_table(node: Node, text: TextTable, image: ImageSpec, path: Path, listed: int) -> Unused:
    """Writes the rows of a table that a run would use, and says how many, beside those that it would not, with why.

    Args:
        node: of a `DataModule` whose source reads the table.
        text: the table.
        image: what its photographs are read for.
        path: of the new file.
        listed: most faults that are said.

    Returns:
        Which rows left.

    Raises:
        UserError: something else than rows is wrong.
    """
    records = _records(node, text)
    data: DataModule = instantiate(node, image=image, seed=0)

    def read(file: Path) -> tuple[ImageTable, Sequence[BadImage]]:
        found = _load(node, file)
        return found, data.decode(found)[1]

    unused = unused_rows(text.path, records, read)
    removed = write_clean(path, records, unused.reasons)
    for row, why in sorted(unused.faults.items())[:listed]:
        say(f"  row {row}: {why}")
    counts = Counter(unused.left_out.values())
    counts.update({"with a fault": len(unused.faults), "whose file gives no image": len(unused.images)})
    why = "; ".join(f"{count:,} {reason}" for reason, count in counts.most_common() if count)
    rows = sum(any(map(str.strip, record)) for record in records[1:])
    say(f"  cleaned table: {path}, {rows - len(unused.reasons):,} of {rows:,} rows")
    say(f"  removed rows, with why: {removed}, {len(unused.reasons):,}{f' ({why})' if why else ''}")
    return unused


def table_faults(node: Node, text: TextTable) -> dict[int, str]:
    """Number and fault of each faulty row of a table that ``node`` reads; a UserError where something else is wrong."""
    return unused_rows(text.path, _records(node, text), lambda file: (_load(node, file), ())).faults


def _records(node: Node, text: TextTable) -> list[list[str]]:
    return raw_records(text.path, (), node["source"].get("encoding"), node["source"].get("delimiter"))


def _load(node: Node, file: Path) -> ImageTable:
    found: ImageTable = instantiate(with_table(node, file)["source"]).load()
    return found


def with_table(node: Node, file: Path) -> Node:
    """A data node that reads a table that was written here."""
    written = {name: value for name, value in _WRITTEN.items() if name in node["source"]}
    return {**node, "source": {**node["source"], **written, "table": str(file)}}


def unused_rows(path: Path, records: Sequence[Sequence[str]], read: Read) -> Unused:
    """Finds the rows of a table that a run does not use.

    Rows with a fault are emptied in a copy, one round after the other, until ``read`` finds no other: a row that
    nothing could be made of hides what else is wrong with the table.

    Args:
        path: of the table.
        records: its header and rows, as of `siglip_med.core.csv_reading.raw_records`.
        read: reads a file like it.

    Raises:
        UserError: something else than a row is wrong.
    """
    faults: dict[int, str] = {}
    nothing = [""] * len(records[0])
    with TemporaryDirectory() as place:
        copy = Path(place) / path.name
        while True:
            rows = (nothing if number in faults else row for number, row in enumerate(records[1:], start=1))
            write_csv(copy, records[0], rows)
            try:
                table, bad = read(copy)
                break
            except UserError as error:
                every = error.every if isinstance(error, SeveralErrors) else [error]
                found = dict(_row_and_reason(str(one), copy) for one in every)
                if not found.keys() - faults.keys() - {0}:
                    raise UserError(str(error).replace(str(copy), str(path))) from None
                faults |= {number: why for number, why in found.items() if number}
    left_out = {row: item.reason for item in table.left_out for row in item.rows}
    return Unused(faults, {item.row: f"{item.image} {item.reason}" for item in bad}, left_out)


def write_clean(path: Path, records: Sequence[Sequence[str]], reasons: Mapping[int, str]) -> Path:
    """Writes the rows without a reason as a CSV like the table, and the others beside it; returns that file's path.

    ``<name>_removed.csv`` has the columns ``row`` and ``why`` before the table's own, and more behind them where a row
    is longer than the header. Rows without any text are in neither.
    """
    header, *rows = records
    kept = [row for number, row in enumerate(rows, start=1) if number not in reasons and any(map(str.strip, row))]
    gone = [(number, why, rows[number - 1]) for number, why in sorted(reasons.items())]
    longest = max((len(row) for _, _, row in gone), default=0)
    beyond = [f"beyond {place}" for place in range(1, longest - len(header) + 1)]
    removed = removed_beside(path)
    filled = [[row, why, *cells, *[""] * (max(longest, len(header)) - len(cells))] for row, why, cells in gone]
    write_csv(removed, ("row", "why", *header, *beyond), filled)
    write_csv(path, header, kept)
    return removed


def _row_and_reason(message: str, path: Path) -> tuple[int, str]:
    """Of an error of a table's row; 0 for another error."""
    found = re.match(rf"{re.escape(str(path))}, row (\d+)[,:]? ?", message)
    return (int(found[1]), message[found.end() :]) if found else (0, message)
