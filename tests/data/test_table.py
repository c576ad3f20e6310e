from pathlib import Path

import numpy as np
import pytest

from siglip_med.core.errors import UserError
from siglip_med.data.accounting import LeftOut
from siglip_med.data.table import TEXT_COLUMNS, TableRow, build_table


def build(*rows: TableRow, **settings):
    return build_table(rows, root=Path("root"), source="t.csv", **settings)


def row(image: str = "a.jpg", weights: dict[str, float] | None = None, number: int = 1, **values: str) -> TableRow:
    return TableRow(image, {"Acne": 1.0} if weights is None else weights, number, **values)


def test_rows_become_columns_labels_and_primary_condition():
    table = build(
        row("a.jpg", {"Eczema": 0.4, "Acne": 0.4, "Scar": 0.2}, case="p1", skin_tone="3"),
        row("b.jpg", {"Acne": 0.0, "Scar": 1.0}, 2),
    )
    assert table.conditions == ("Acne", "Eczema", "Scar")
    np.testing.assert_array_equal(table.labels, np.array([[0.4, 0.4, 0.2], [0, 0, 1]], dtype=np.float32))
    assert table.labels.dtype == np.float32
    # the first listed wins the tie between Eczema and Acne, whatever the order of the columns
    assert table.frame["primary"].tolist() == [1, 2]
    assert table.frame["case"].tolist() == ["p1", "b.jpg"]
    assert table.frame["image_id"].tolist() == ["a.jpg", "b.jpg"]
    assert set(TEXT_COLUMNS) | {"primary", "source_row"} == set(table.frame.columns)
    assert table.frame["skin_tone"].tolist() == ["3", ""]


def test_given_order_of_conditions_is_kept():
    table = build(row(weights={"Acne": 1.0}), conditions=("Scar", "Acne"))
    assert table.conditions == ("Scar", "Acne")
    assert table.frame["primary"].tolist() == [1]


def test_rows_without_a_condition_are_left_out_and_counted():
    table = build(row(), row("b.jpg", {}, 2), row("c.jpg", {"Acne": 0.0}, 3), notes=("before",))
    assert len(table) == 1
    assert table.notes == ("before",)
    assert table.left_out == (LeftOut("no condition", 2),)
    assert table.read == 3


def test_nothing_to_read_is_said():
    with pytest.raises(UserError, match=r"^t\.csv: holds no row"):
        build()
    with pytest.raises(UserError, match=r"none of its 1 rows has a condition"):
        build(row(weights={}))


@pytest.mark.parametrize(
    "image",
    ["", "  ", "/etc/passwd", "../a.jpg", "a/../../b.jpg", "C:\\a.jpg", "..\\a.jpg", "\\\\host\\a.jpg", "a\x00.jpg"],
)
def test_a_path_that_leaves_the_root_is_refused(image):
    with pytest.raises(UserError, match=r"^t\.csv, row 7: the image path") as error:
        build(row(image, number=7))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("image", ["a.jpg", "b/../a.jpg", "./a.jpg", "with space/ä.png", "..a/b.jpg"])
def test_a_path_inside_the_root_is_taken(image):
    assert build(row(image)).frame["image"].tolist() == [image]


@pytest.mark.parametrize("weight", [1.0001, -0.1, float("nan"), float("inf")])
def test_a_weight_outside_0_to_1_is_refused(weight):
    with pytest.raises(UserError, match=r"^t\.csv, row 1: the weight of 'Acne'"):
        build(row(weights={"Acne": weight}))


def test_an_image_that_a_case_lists_twice_is_refused():
    with pytest.raises(UserError, match=r"^t\.csv, row 9: \./a\.jpg is listed already in row 1"):
        build(row(case="p"), row("./a.jpg", number=9, case="p"))
    assert len(build(row(case="p"), row(number=2, case="q"))) == 2


def test_values_that_the_table_cannot_hold_are_refused():
    with pytest.raises(UserError, match="skin tone '7'"):
        build(row(skin_tone="7"))
    with pytest.raises(UserError, match="split 'valid'"):
        build(row(source_split="valid"))
    with pytest.raises(UserError, match="empty name"):
        build(row(weights={" ": 1.0}))
