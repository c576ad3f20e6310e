"""The one reader of CSVs: finds delimiter and encoding, accepts what Excel writes, and accounts for every row."""

import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from siglip_med.core.errors import UserError
from siglip_med.core.outside import csv_text

DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_RECORDS = 51
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
        rows: one mapping per row.
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
                    f"{self.where(number)}: {column} {key!r} occurs twice (row {found[key][0]} has it already); "
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
    skip_faulty: bool = False,
) -> TextTable:
    """Reads a CSV strictly: every row has the header's columns, and an error names its row.

    Taken as they come: a byte order mark, UTF-16, Windows line ends, blank lines, a first line ``sep=;``, columns at
    the right and rows at the end without any text. Names are brought into Unicode's composed form. The apostrophe
    that keeps a spreadsheet from running a cell goes (`csv_text`).

    Args:
        path: the file.
        required: columns that must be there.
        hints: columns that are looked for when the delimiter is, beside those.
        encoding: of the text; None: UTF-8 or UTF-16, else cp1252 (Western European Excel), which is noted.
        delimiter: one character between fields; None: the one that gives the header the required columns, else the
            most columns that the rows have too.
        skip_faulty: leaves faulty rows out without a word, for who wants an impression of the table.

    Raises:
        UserError: no such file, no text file, bytes that are not of this encoding, a row with more or fewer fields
            than the header, an open quote, a control character, a column named twice, or no header.
    """
    records, delimiter, found, notes = _read(path, (*required, *hints), encoding, delimiter)
    header = _header(path, records)
    if len(header) == 1 and delimiter != found and any(column not in header for column in (*required, *hints)):
        raise UserError(f"{path}: its delimiter looks like {found!r}, not {delimiter!r}; delimiter=null finds it")
    rows, numbers = [], []
    filled = [(number, record) for number, record in enumerate(records[1:], start=1) if any(map(str.strip, record))]
    for number, record in filled:
        try:
            record = _fields(record, header, f"{path}, row {number}")
        except UserError:
            if skip_faulty:
                continue
            raise
        rows.append(dict(zip(header, map(csv_text, record), strict=True)))
        numbers.append(number)
    table = TextTable(path, tuple(header), tuple(rows), tuple(numbers), len(records) - 1 - len(filled), tuple(notes))
    table.require(*required)
    return table


def _fields(record: list[str], header: Sequence[str], where: str) -> list[str]:
    """A row as long as the header; a UserError where it is longer or shorter, or holds a control character."""
    width = len(header)
    if len(record) > width and not any(map(str.strip, record[width:])):
        record = record[:width]  # Excel's empty columns at the right
    if len(record) != width:
        raise UserError(f"{where}: has {len(record)} fields where the header has {width}; check its delimiters")
    _check_characters(record, header, where)
    return record


def raw_records(
    path: Path, hints: Sequence[str] = (), encoding: str | None = None, delimiter: str | None = None
) -> list[list[str]]:
    """The header and all rows of a CSV, whatever their length, in the order that `read_csv` numbers them."""
    return [list(map(csv_text, record)) for record in _read(path, hints, encoding, delimiter)[0]]


def _read(
    path: Path, wanted: Sequence[str], encoding: str | None, delimiter: str | None
) -> tuple[list[list[str]], str, str, list[str]]:
    """The records, the delimiter, the one that it looks like, and what was found out about the text."""
    text, notes = _text(path, encoding)
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:
        text, delimiter = rest, delimiter or first.strip()[4]
    found = _find_delimiter(text, wanted)
    delimiter = delimiter or found
    records: list[list[str]] = []
    try:
        records.extend(_records(text, delimiter))
    except csv.Error as error:
        raise UserError(f"{path}, row {len(records)}: not readable as CSV ({error}); check its quotes") from error
    if not records:
        raise UserError(f"{path}: the file is empty; give a table with a header and one row per image")
    return records, delimiter, found, notes


def _records(text: str, delimiter: str) -> Iterator[list[str]]:
    return filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))


def _names(record: Sequence[str]) -> list[str]:
    return [csv_text(unicodedata.normalize("NFC", name.strip(_INVISIBLE + " \t\u00a0"))) for name in record]


def _header(path: Path, records: list[list[str]]) -> list[str]:
    """Names of the columns, without empty ones at the right that no row fills."""
    names = _names(records[0])
    while len(names) > 1 and not names[-1]:
        last = len(names) - 1
        if any(field.strip() for record in records[1:] for field in record[last : last + 1]):
            break
        names.pop()
    if not any(names):
        raise UserError(f"{path}: the header names no column; put the names of the columns into the first line")
    _check_characters(names, names, f"{path}, header")
    names = [name or f"column {place}" for place, name in enumerate(names, start=1)]  # pandas leaves its index unnamed
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: column {twice[0]!r} occurs twice in the header; rename one of them")
    return names


def _find_delimiter(text: str, wanted: Sequence[str]) -> str:
    """The first of those that have the wanted columns, else the most rows as long as the header, else most columns."""

    def score(delimiter: str) -> tuple[bool, float, int]:
        sample: list[list[str]] = []
        with suppress(csv.Error):
            sample.extend(islice(_records(text, delimiter), _SAMPLE_RECORDS))
        width = len(sample[0]) if sample else 0
        even = sum(len(record) == width for record in sample) / len(sample) if width > 1 else 0.0
        return bool(wanted) and width > 0 and set(wanted) <= set(_names(sample[0])), even, width

    return max(DELIMITERS, key=score)


def _text(path: Path, encoding: str | None) -> tuple[str, list[str]]:
    """The file as text, and what was found out on the way."""
    if not path.is_file():
        beside = sorted(file.name for file in path.parent.glob("*.csv"))[:4]
        there = f"; beside it there is {', '.join(beside)}" if beside else ""
        raise UserError(
            f"{path}: no such file; check data.source.root and the setting that names it (the labels: "
            f"data.source.table){there}"
        )
    data = path.read_bytes()
    kind = next((words for start, words in _NO_TEXT.items() if data.startswith(start)), None)
    if kind is not None:
        raise UserError(f"{path}: is no CSV but {kind}")
    wrong: UnicodeDecodeError | None = None
    names = _encodings(data) if encoding is None else (encoding.replace("utf-8", "utf-8-sig"),)
    for name in names:
        try:
            text = data.decode(name)
        except UnicodeDecodeError as error:
            wrong = wrong or error
        else:
            note = f"{path.name} is not UTF-8 (row {_line(wrong)}), so it was read as {name}" if wrong else ""
            return text, [f"{note}; if names look wrong, set encoding"] if note else []
    assert wrong is not None
    byte = wrong.object[wrong.start]
    tried = "neither UTF-8 nor cp1252" if len(names) > 1 else f"not {names[0].removesuffix('-sig')}"
    raise UserError(
        f"{path}, row {_line(wrong)}: byte 0x{byte:02x} is {tried}; save the table as UTF-8 or name its encoding, e.g. "
        "encoding=latin-1"
    ) from wrong


def _line(error: UnicodeDecodeError) -> int:
    return error.object.count(b"\n", 0, error.start)  # the object has no byte order mark


def _encodings(data: bytes) -> tuple[str, ...]:
    """What a file may be in, by its first bytes; of several the first that can be read."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ("utf-16",)
    if b"\x00" in data[:2] and len(data) > 2:
        return ("utf-16-be" if data[:1] == b"\x00" else "utf-16-le",)
    return "utf-8-sig", "cp1252"


def control_character(text: str) -> str | None:
    """The first character of a text that no table should have; None where there is none."""
    ends = text.replace("\r\n", "\n")
    return next((c for c in ends if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n"), None)


def _check_characters(record: Sequence[str], header: Sequence[str], where: str) -> None:
    for column, field in zip(header, record, strict=True):
        if not field.isprintable():
            odd = control_character(field)
            if odd is not None:
                raise UserError(
                    f"{where}: column {column!r} holds the control character {odd!r} in {field[:40]!r}; remove it"
                )
