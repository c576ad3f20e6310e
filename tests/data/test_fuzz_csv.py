"""500 damaged copies of a good table: each is read, or refused with one line that names it."""

import numpy as np

from siglip_med.data.sources import CsvSource
from siglip_med.data.table import ImageTable
from siglip_med.errors import UserError
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


def load(source: CsvSource) -> tuple[ImageTable | None, str]:
    """The table, or what the one error that is allowed says."""
    try:
        return source.load(), ""
    except UserError as error:
        return None, str(error)


def test_mutated_tables_are_read_or_refused(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "labels.csv"
    source = CsvSource(root=str(tmp_path), **CSV_COLUMNS)
    read = refused = 0
    for _ in range(500):
        data = mutate(GOOD_CSV.encode(), rng)
        path.write_bytes(data)
        table, said = load(source)
        if table is None:
            refused += 1
            assert "\n" not in said
            assert str(path) in said
            continue
        read += 1
        # nothing is made up: what the table says stands in the file
        text = data.decode("utf-8-sig")
        for name in table.conditions:
            assert name in text or name.replace('"', '""') in text
        for image in table.frame["image"]:
            assert image in text or image.replace('"', '""') in text
        assert np.isfinite(table.labels).all()
        assert ((table.labels >= 0) & (table.labels <= 1)).all()
        assert (table.labels.max(axis=1) > 0).all()
        assert len(table) <= text.count("\n") + text.count("\r") + 1
    assert read > 40
    assert refused > 200
