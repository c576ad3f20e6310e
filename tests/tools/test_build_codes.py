"""Rebuilding what is derived from ICD-10-CM."""

import csv
import gzip
import sys

import pytest
import simple_icd_10_cm as icd

from siglip_med.conditions.codes import CODES_FILE, read_code_book
from siglip_med.conditions.curated import VOCABULARIES, table_path
from siglip_med.core.errors import UserError
from tools.build_codes import _release, build_codes, code_rows, refresh_table, write_code_file


def test_rebuilding_gives_the_packed_file_again(tmp_path):
    release = _release(icd)
    if release != read_code_book().release:
        pytest.skip(f"the library holds {release}, the package {read_code_book().release}")
    built = tmp_path / "codes.csv.gz"
    write_code_file(code_rows(icd), release, built)
    assert gzip.decompress(built.read_bytes()) == gzip.decompress(CODES_FILE.read_bytes())
    assert [path.name for path in tmp_path.iterdir()] == ["codes.csv.gz"]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_refreshing_a_table_restores_its_derived_columns(tmp_path, vocabulary):
    original = table_path(vocabulary).read_text(encoding="utf-8")
    rows = list(csv.DictReader(original.splitlines()))
    blank = tmp_path / "table.csv"
    with blank.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "title": "", "chapter": "", "block": "?", "category": "", "path": ""})
    refresh_table(blank, read_code_book())
    assert blank.read_text(encoding="utf-8") == original


@pytest.mark.parametrize("code", ["L30", "L30.99"])
def test_a_curated_row_with_a_wrong_code_stops_the_build_and_leaves_the_table(tmp_path, code):
    table = tmp_path / "table.csv"
    table.write_text(f"condition,code,title\nfine,L80,\nwrong,{code},\n", encoding="utf-8")
    before = table.read_bytes()
    with pytest.raises(UserError, match=rf"table\.csv, row 2: {code}"):
        refresh_table(table, read_code_book())
    assert table.read_bytes() == before


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "simple_icd_10_cm", None)
    with pytest.raises(UserError, match=r"siglip-med\[codes\]"):
        build_codes()
