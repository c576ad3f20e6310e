"""The one reader of CSVs: finds delimiter and encoding, knows Excel's habits, and accounts for every row."""

import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from siglip_med.core.errors import UserError

DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_RECORDS = 50
_INVISIBLE = "\ufeff\u200b"
_NO_TEXT = {
    b"PK\x03\x04": "an Excel workbook (or a zip archive); save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV UTF-8",
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"%PDF": "a PDF; export the table as CSV",
    b"PAR1": "a Parquet file; export it as CSV",
}


@dataclass(frozen=True)
class TextTable:
    """A CSV as text.

    Attributes:
        path: the file.
        columns: names in the header.
        rows: one mapping a row.
        numbers: 1-based number of each of them below the header, rows without any text included.
        empty: rows without any text (Excel writes them), which are not among ``rows``.
        notes: what had to be found out about the file.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    numbers: tuple[int, ...]
    empty: int = 0
    notes: tuple[str, ...] = ()

    def numbered(self) -> Iterator[tuple[int, dict[str, str]]]:
        """The rows with their 1-based numbers."""
        return zip(self.numbers, self.rows, strict=True)

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

    def by_key(self, column: str) -> dict[str, tuple[int, dict[str, str]]]:
        """Number and row by the text in a column, to join another table with.

        Raises:
            UserError: the column is missing, or holds a key twice.
        """
        self.require(column)
        found: dict[str, tuple[int, dict[str, str]]] = {}
        for number, row in self.numbered():
            key = row[column].strip()
            if key in found:
                raise UserError(
                    f"{self.where(number)}: {column} {key!r} stands in it twice (row {found[key][0]} has it already); "
                    "keep one row"
                )
            found[key] = (number, row)
        return found


def read_csv(
    path: Path,
    *,
    required: Sequence[str] = (),
    hints: Sequence[str] = (),
    encoding: str | None = None,
    delimiter: str | None = None,
) -> TextTable:
    """Reads a CSV strictly: every row has the header's columns, and whatever is wrong is said with its row.

    Taken as they come: a byte order mark, UTF-16, Windows line ends, blank lines, a first line ``sep=;``, columns at
    the right and rows at the end without any text. Names are brought into Unicode's composed form.

    Args:
        path: the file.
        required: columns that must be there.
        hints: columns that are looked for when the delimiter is, beside those.
        encoding: of the text; None: UTF-8 or UTF-16, else cp1252 (Western European Excel), which is noted.
        delimiter: one character between fields; None: the one that gives the header the required columns, else the
            most columns that the rows have too.

    Raises:
        UserError: no such file, no text file, bytes that are not of this encoding, a row with more or fewer fields
            than the header, an open quote, a control character, a column named twice, or no header.
    """
    text, notes = _text(path, encoding)
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:
        text, delimiter = rest, delimiter or first.strip()[4]
    wanted = (*required, *hints)
    given = delimiter is not None
    delimiter = delimiter or _find_delimiter(text, wanted)
    records = _records(path, text, delimiter)
    if not records:
        raise UserError(f"{path}: the file is empty; give a table with a header and one row an image")
    header, width = _header(path, records)
    rows, numbers = [], []
    for number, record in enumerate(records[1:], start=1):
        where = f"{path}, row {number}"
        if not any(field.strip() for field in record):
            continue
        if len(record) > width and not any(field.strip() for field in record[width:]):
            record = record[:width]  # Excel's empty columns at the right
        if len(record) != width:
            raise UserError(f"{where}: has {len(record)} fields where the header has {width}; check its delimiters")
        _check_characters(record, header, where)
        rows.append(dict(zip(header, record, strict=True)))
        numbers.append(number)
    table = TextTable(path, tuple(header), tuple(rows), tuple(numbers), len(records) - 1 - len(rows), tuple(notes))
    if given and width == 1 and any(column not in header for column in wanted):
        other = _find_delimiter(text, wanted)
        if other != delimiter:
            raise UserError(f"{path}: its delimiter looks like {other!r}, not {delimiter!r}; delimiter=null finds it")
    table.require(*required)
    return table


def _records(path: Path, text: str, delimiter: str) -> list[list[str]]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[list[str]] = []
    try:
        records.extend(record for record in lines if record)
    except csv.Error as error:
        raise UserError(f"{path}, row {len(records)}: not readable as CSV ({error}); check its quotes") from error
    return records


def _until_error(text: str, delimiter: str) -> Iterator[list[str]]:
    try:
        yield from (r for r in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if r)
    except csv.Error:
        return


def _header(path: Path, records: list[list[str]]) -> tuple[list[str], int]:
    """Names of the columns, without empty ones at the right that no row fills, and how many they are."""
    names = [unicodedata.normalize("NFC", name.strip(_INVISIBLE + " \t\u00a0")) for name in records[0]]
    width = len(names)
    while width > 1 and not names[width - 1]:
        if any(field.strip() for record in records[1:] for field in record[width - 1 : width]):
            break
        width -= 1
    names = names[:width]
    if not any(names):
        raise UserError(f"{path}: the header names no column; put the names of the columns into the first line")
    _check_characters(names, names, f"{path}, header")
    names = [name or f"column {place}" for place, name in enumerate(names, start=1)]  # pandas leaves its index unnamed
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: column {twice[0]!r} stands in the header twice; rename one of them")
    return names, width


def _find_delimiter(text: str, required: Sequence[str]) -> str:
    best, score = ",", (False, 0.0, 0)
    for delimiter in DELIMITERS:
        sample: list[list[str]] = []
        for record in _until_error(text, delimiter):
            sample.append(record)
            if len(sample) > _SAMPLE_RECORDS:
                break
        if not sample:
            continue
        names = {unicodedata.normalize("NFC", name.strip(_INVISIBLE + " \t")) for name in sample[0]}
        width = len(sample[0])
        even = sum(len(record) == width for record in sample) / len(sample) if width > 1 else 0.0
        this = (bool(required) and all(name in names for name in required), even, width)
        if this > score:
            best, score = delimiter, this
    return best


def _text(path: Path, encoding: str | None) -> tuple[str, list[str]]:
    """The file as text, and what was found out on the way."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; check data.source.root and the name of the table")
    data = path.read_bytes()
    kind = next((said for start, said in _NO_TEXT.items() if data.startswith(start)), None)
    if kind is not None:
        raise UserError(f"{path}: is no CSV but {kind}")
    if encoding is not None:
        return _decode(path, data, "utf-8-sig" if encoding == "utf-8" else encoding), []
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _decode(path, data, "utf-16"), []
    if b"\x00" in data[:2] and len(data) > 2:
        return _decode(path, data, "utf-16-be" if data[:1] == b"\x00" else "utf-16-le"), []
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        row, byte = data.count(b"\n", 0, error.start), data[error.start]
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            raise UserError(
                f"{path}, row {row}: byte 0x{byte:02x} is neither UTF-8 nor cp1252; save the table as UTF-8 or name "
                "its encoding"
            ) from error
    return text, [f"{path.name} is not UTF-8 (row {row}), so it was read as cp1252; if names look wrong, say encoding"]


def _decode(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        row, byte = data.count(b"\n", 0, error.start), data[error.start]
        raise UserError(
            f"{path}, row {row}: byte 0x{byte:02x} is not {encoding.removesuffix('-sig')}; save the table as UTF-8 or "
            "name its encoding, e.g. encoding=latin-1"
        ) from error


def _check_characters(record: Sequence[str], header: Sequence[str], where: str) -> None:
    for column, field in zip(header, record, strict=True):
        if not field.isprintable():
            odd = next((c for c in field if unicodedata.category(c) == "Cc" and c not in "\t\n\r"), None)
            if odd is not None:
                raise UserError(
                    f"{where}: column {column!r} holds the control character {odd!r} in {field[:40]!r}; remove it"
                )
