"""What would make a result wrong is found before training."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from siglip_med.core.errors import UserError
from siglip_med.data.accounting import LeftOut, format_counts, largest_case, sum_up
from siglip_med.data.checks import check_table, join_identical, left_out_word
from siglip_med.data.filters import keep_rows
from siglip_med.data.splitting.split import GroupStratifiedSplitter, make_split
from siglip_med.data.table import TableRow, build_table


def table_of(cases: list[str], left_out: list[LeftOut] | None = None):
    rows = [TableRow(f"{i}.jpg", {"ab"[i % 2]: 1.0}, i + 1, case=case) for i, case in enumerate(cases)]
    return build_table(rows, root=Path("x"), source="t.csv", left_out=left_out or [])


def test_one_case_that_is_most_of_the_data_stops_the_run():
    table = table_of(["unidentified"] * 55 + ["a", "b", "c", "d", "e"])
    with pytest.raises(UserError, match=r"t\.csv: case 'unidentified' holds 55 of 60 images, .*data\.max_case_share"):
        check_table(table, 0.5, 0.5)
    check_table(table, 0.5, 0.95)
    check_table(table_of(["a"] * 5 + ["b"] * 5), 0.5, 0.5)


def test_too_many_rows_left_out_unasked_stop_the_run():
    lost = [LeftOut("no condition", 7)]
    with pytest.raises(UserError, match=r"7 of 13 rows are left out \(7 no condition\), .*data\.max_left_out"):
        check_table(table_of(list("abcdef"), lost), 0.5, 0.5)
    check_table(table_of(list("abcdefg"), lost), 0.5, 0.5)
    check_table(table_of(list("abcdef"), [LeftOut("a filter", 70, asked=True)]), 0.5, 0.5)


def test_a_condition_without_any_image_left_stops_the_run():
    table = keep_rows(table_of(list("abcdef")), np.array([True, False] * 3), "the file gives no image")
    with pytest.raises(UserError, match=r"no image is left of 'b'; .*'data\.source\.aliases=\{b: null\}'"):
        check_table(table, 0.5, 0.5)


@pytest.mark.parametrize("name", ["b", "Acne vulgaris", "a: b", "eczema (hand)", "x, y", "no", "1", "{", "it's"])
def test_the_setting_that_leaves_a_condition_out_is_accepted_or_a_file_is_proposed(name):
    said = left_out_word(name)
    if said.startswith("'"):
        (word,) = shlex.split(said)
        assert OverridesParser.create().parse_override(word).value() == {name: None}
    else:
        assert said.startswith("data.source.aliases=@")
    assert said.startswith("'") == (name in ("b", "Acne vulgaris", "no"))


def test_copies_with_other_conditions_are_counted():
    table = table_of(["a", "b", "c", "d"])
    table = replace(table, labels=np.eye(len(table.conditions), dtype=np.float32)[[0, 1, 1, 1]])
    joined = join_identical(table, np.array([7, 7, 7, 9]))
    assert "2 images are byte-identical copies of others; 2 of them have other conditions" in joined.notes[-1]


def test_identical_images_come_into_one_case_and_one_split():
    table = table_of([f"p{i}" for i in range(40)])
    records = np.arange(40)
    records[20:24] = [3, 5, 5, 9]
    joined = join_identical(table, records)
    assert joined.cases[20] == joined.cases[3]
    assert joined.cases[21] == joined.cases[22] == joined.cases[5]
    assert len(set(joined.cases)) == 36
    assert joined.notes[-1] == (
        "4 images are byte-identical copies of others; 2 of them have other conditions than the first of their "
        "kind; their cases are joined, 40 to 36"
    )
    for seed in range(5):
        parts = make_split(joined, GroupStratifiedSplitter(), seed).parts
        assert all(len(set(parts[records == record])) == 1 for record in records)
    assert join_identical(table, np.arange(40)) is table


def test_counts_are_summed_by_reason():
    assert sum_up([LeftOut("x", 2), LeftOut("y", 0), LeftOut("x", 3), LeftOut("x", 1, asked=True)]) == (
        LeftOut("x", 5),
        LeftOut("x", 1, asked=True),
    )
    assert format_counts(["unknown", "", "unknown", "?", "!", "n/a"]) == "'unknown' 2, empty 1, '!' 1 and 2 more"
    assert largest_case(np.array(["b", "a", "b", "a"])) == ("a", 2)
