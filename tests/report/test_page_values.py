"""Values of a page: what JSON can hold, and by what a column is sorted."""

import json

import numpy as np
import pytest

from siglip_med.report.page import plain, sort_key


def test_json_has_no_numpy_and_no_nan():
    value = {"a": np.float32(0.5), "b": [np.nan, np.inf, 1], "c": np.arange(2), 3: (np.bool_(True), "x")}
    assert plain(value) == {"a": 0.5, "b": [None, None, 1], "c": [0, 1], "3": [True, "x"]}
    json.dumps(plain(value), allow_nan=False)


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        ("0.483 [0.431, 0.530]", "0.483"),
        ("+0.120 [+0.081, +0.160], p < 0.001", "0.120"),
        ("-0.5", "-0.5"),
        ("1,204", "1204"),
        ("9.5%", "9.5"),
        ("–", ""),
        ("not measured", ""),
    ],
)
def test_a_column_of_numbers_is_sorted_by_its_first_number(cell, key):
    assert sort_key(cell) == key
