"""Reads a CSV strictly: every row has the header's columns, and whatever is wrong is said with its row."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from siglip_med.errors import UserError


@dataclass(frozen=True)
class TextTable:
    """A CSV as text.

    Attributes:
        path: the file.
        columns: names in the header.
        rows: one mapping a row; row i is number i + 1 in messages.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]

    def numbered(self) -> Iterator[tuple[int, dict[str, str]]]:
        """The rows with their 1-based numbers."""
        return enumerate(self.rows, start=1)

    def require(self, *columns: str) -> None:
        """Checks that columns are there.

        Raises:
            UserError: one is not; the line names those that are.
        """
        for column in columns:
            if column not in self.columns:
                raise UserError(f"{self.path}: no column {column!r}; there are {', '.join(self.columns)}")

    def where(self, row: int) -> str:
        """File and row, as messages name them."""
        return f"{self.path}, row {row}"


def read_csv(path: Path, *, required: Sequence[str] = (), encoding: str = "utf-8", delimiter: str = ",") -> TextTable:
    """Reads a CSV; a byte order mark and Windows line ends are taken, blank lines passed over.

    Args:
        path: the file.
        required: columns that must be there.
        encoding: of the text; nothing is guessed, since a wrong guess changes names silently.
        delimiter: one character between fields.

    Raises:
        UserError: no such file, bytes that are not of this encoding, a row with more or fewer fields than the
            header, an open quote, a control character, a column named twice, or no header.
    """
    lines = csv.reader(io.StringIO(_text(path, encoding), newline=""), delimiter=delimiter, strict=True)
    records: list[list[str]] = []
    try:
        for record in lines:
            if record:
                _check_record(record, records[0] if records else None, f"{path}, row {len(records)}")
                records.append(record)
    except csv.Error as error:
        raise UserError(f"{path}, row {len(records)}: not readable as CSV ({error}); check its quotes") from error
    if not records:
        raise UserError(f"{path}: the file is empty; give a table with a header and one row an image")
    header = records[0]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path}: column {twice[0]!r} stands in the header twice; rename one of them")
    rows = tuple(dict(zip(header, record, strict=True)) for record in records[1:])
    table = TextTable(path, tuple(header), rows)
    table.require(*required)
    return table


def _text(path: Path, encoding: str) -> str:
    if not path.is_file():
        raise UserError(f"{path}: no such file; check data.source.root and the name of the table")
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start)
        raise UserError(
            f"{path}, row {row}: byte 0x{data[error.start]:02x} is not {encoding}; "
            "save the table as UTF-8 or name its encoding, e.g. data.source.encoding=latin-1"
        ) from error


def _check_record(record: list[str], header: list[str] | None, where: str) -> None:
    if header is not None and len(record) != len(header):
        raise UserError(f"{where}: has {len(record)} fields where the header has {len(header)}; check its commas")
    for field in record:
        odd = next((c for c in field if not c.isprintable() and c not in "\t\n\r\u00a0\u200b\u3000"), None)
        if odd is not None:
            raise UserError(f"{where}: holds the control character {odd!r} in {field[:40]!r}; remove it")
