"""Damaged tables, 300 of one by hand and 1,000 of five real ones: each is read whole or refused with one line."""

import contextlib
import csv
import io
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from siglip_med.core.errors import UserError
from siglip_med.data.table import ImageTable
from siglip_med.sources import CsvSource, Fitzpatrick17kSource, FolderSource, Ham10000Source, PadUfes20Source
from tests.data.tables import CSV_COLUMNS, GOOD_CSV

SPICE = [b",", b'"', b"\n", b"\r", b"\r\n", b"|", b"\x00", b"\xff", b"\xef\xbb\xbf", b"nan", b"1e999", b"-1", b"../"]


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One or two of: a byte changed, a slice removed, doubled or moved, something nasty put in, the end cut off."""
    for _ in range(rng.integers(1, 3)):
        place = int(rng.integers(0, len(data) + 1))
        end = min(len(data), place + int(rng.integers(1, 40)))
        other = int(rng.integers(0, len(data) + 1))
        match int(rng.integers(0, 6)):
            case 0:
                data = data[:place] + bytes([rng.integers(0, 256)]) + data[place + 1 :]
            case 1:
                data = data[:place] + data[end:]
            case 2:
                data = data[:end] + data[place:end] + data[end:]
            case 3:
                data = data[:other] + data[place:end] + data[other:]
            case 4:
                data = data[:place] + SPICE[rng.integers(0, len(SPICE))] + data[place:]
            case _:
                data = data[:place]
    return data


def load(source: FolderSource) -> tuple[ImageTable | None, str]:
    """The table, or what the one error that is allowed says."""
    try:
        return source.load(), ""
    except UserError as error:
        return None, str(error)


def decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def possible_rows(text: str) -> set[int]:
    """Rows below the header as Python's own reader counts them, with each delimiter."""
    counts = set()
    for delimiter in ",;\t|":
        with contextlib.suppress(csv.Error):
            counts.add(
                sum(1 for record in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if record) - 1
            )
    return counts


def check(source: FolderSource, path: Path, data: bytes) -> bool:
    """Writes a mutated table and reads it; whether it was read."""
    path.write_bytes(data)
    table, said = load(source)
    if table is None:
        assert "\n" not in said
        assert str(path) in said
        return False
    text = decoded(data)
    assert len(table) + sum(item.count for item in table.left_out) in possible_rows(text)
    # nothing is made up: what the table says stands in the file
    spaced = unicodedata.normalize("NFC", " ".join(text.replace('""', '"').split()))
    for name in table.conditions:
        assert unicodedata.normalize("NFC", name.replace('""', '"')) in spaced
    assert np.isfinite(table.labels).all()
    assert ((table.labels >= 0) & (table.labels <= 1)).all()
    assert (table.labels.max(axis=1) > 0).all()
    return True


def test_mutated_tables_are_read_or_refused(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "labels.csv"
    source = CsvSource(root=str(tmp_path), **CSV_COLUMNS)
    read = sum(check(source, path, mutate(GOOD_CSV.encode(), rng)) for _ in range(300))
    assert 30 < read < 200


REAL = {
    "metadata/ham10000/HAM10000_metadata.csv": (Ham10000Source, {}),
    "metadata/pad_ufes_20/metadata.csv": (PadUfes20Source, {}),
    "metadata/fitzpatrick17k/fitzpatrick17k.csv": (Fitzpatrick17kSource, {}),
    "fitzpatrick17k/labels.csv": (CsvSource, {"group_column": "near_dup_group", "skin_tone_column": "skin_tone"}),
    "metadata/scin/scin_66_images.csv": (
        CsvSource,
        {"image_column": "image_path", "group_column": "case_id"},
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_every_row_of_a_mutated_real_table_is_used_or_left_out(shared, tmp_path, name):
    kind, columns = REAL[name]
    lines = (shared / "data" / name).read_bytes().splitlines(keepends=True)
    rng = np.random.default_rng(len(name))
    path = tmp_path / Path(name).name
    source = kind(root=str(tmp_path), table=path.name, **columns)
    read = 0
    for _ in range(200):
        start = int(rng.integers(1, len(lines) - 25))
        read += check(source, path, mutate(lines[0] + b"".join(lines[start : start + 25]), rng))
    assert 20 < read < 200
