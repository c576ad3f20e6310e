"""Every row of a table is in the cleaned one or in the other, with why; whatever is wrong with it."""

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siglip_med.core.csv_reading import raw_records, read_csv
from siglip_med.core.errors import UserError
from siglip_med.data.cleaning import unused_rows, write_clean
from siglip_med.data.datamodule import BadImage
from siglip_med.sources import CsvSource

RIGHT = ("{n}.jpg", "Eczema", "4")
WRONG = {
    "skin tone": ("{n}.jpg", "Eczema", "9"),
    "fields where": ("{n}.jpg", "Eczema"),
    "path is empty": ("", "Eczema", "4"),
    "out of the root": ("../{n}.jpg", "Eczema", "4"),
    "control character": ("{n}.jpg", "Ecz\x1bema", "4"),
    "empty name": ("{n}.jpg", "Eczema|", "4"),
    "no condition": ("{n}.jpg", "unknown", "4"),
    "by data.source.aliases": ("{n}.jpg", "misc", "4"),
    "listed already": ("0.jpg", "Eczema", "4"),
    "does not exist": ("bad{n}.jpg", "Psoriasis", "4"),
}


def clean(root, kinds):
    """Writes a table of these kinds of rows below a right one, and cleans it: path, its rows, those removed."""
    rows = [[cell.format(n=number) for cell in kind] for number, kind in enumerate([RIGHT, *kinds])]
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([["image", "condition", "tone"], *rows])

    def read(path):
        options = {"condition_separator": "|", "skin_tone_column": "tone", "aliases": {"misc": None}}
        table = CsvSource(root=str(root), table=str(path), **options).load()
        bad = [
            BadImage(row, image, "does not exist")
            for row, image in zip(table.frame["source_row"], table.frame["image"], strict=True)
            if image.startswith("bad")
        ]
        return table, bad

    records = raw_records(root / "labels.csv")
    unused = unused_rows(root / "labels.csv", records, read)
    path = root / "clean.csv"
    removed = write_clean(path, records, unused.reasons)
    with removed.open(newline="") as file:
        return rows, read_csv(path), list(csv.reader(file)), read


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([None, *WRONG]), min_size=1, max_size=9))
def test_rows_are_kept_or_removed_with_the_reason(tmp_path_factory, kinds):
    root = tmp_path_factory.mktemp("table")
    rows, kept, removed, read = clean(root, [RIGHT if kind is None else WRONG[kind] for kind in kinds])
    wrong = {place: kind for place, kind in enumerate(kinds, start=2) if kind is not None}
    assert [list(row.values()) for row in kept.rows] == [
        row for place, row in enumerate(rows, start=1) if place not in wrong
    ]
    header, *gone = removed
    assert header == ["row", "why", "image", "condition", "tone"]
    assert [int(row[0]) for row in gone] == [*wrong]
    for number, why, *cells in gone:
        assert wrong[int(number)] in why
        assert str(root) not in why
        assert cells == [*rows[int(number) - 1], ""][:3]
    assert len(read(kept.path)[0]) == len(kept.rows)


def test_what_is_no_row_s_fault_is_an_error_that_names_the_table_itself(tmp_path):
    (tmp_path / "labels.csv").write_text("image,diagnosis\na.jpg,Eczema\n")

    def read(path):
        return CsvSource(root=str(tmp_path), table=str(path)).load(), ()

    with pytest.raises(UserError, match=rf"^{tmp_path}/labels\.csv: no column 'condition'"):
        unused_rows(tmp_path / "labels.csv", raw_records(tmp_path / "labels.csv"), read)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]


def test_formulas_of_a_table_are_defused_and_read_back(tmp_path):
    (tmp_path / "labels.csv").write_text("image,note\na.jpg,=cmd()\n\n'=x,-1\n")
    records = raw_records(tmp_path / "labels.csv")
    removed = write_clean(tmp_path / "clean.csv", records, {2: "no condition"})
    assert (tmp_path / "clean.csv").read_text() == "image,note\na.jpg,'=cmd()\n"
    assert read_csv(tmp_path / "clean.csv").rows[0] == {"image": "a.jpg", "note": "=cmd()"}
    assert read_csv(removed).rows[0] == {"row": "2", "why": "no condition", "image": "=x", "note": "-1"}
