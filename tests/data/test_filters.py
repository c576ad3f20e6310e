from pathlib import Path

import numpy as np
import pytest

from siglip_med.core.errors import UserError
from siglip_med.data.accounting import LeftOut
from siglip_med.data.filters import (
    drop_rare_conditions,
    keep_conditions,
    keep_rows,
    rename_conditions,
)
from siglip_med.data.table import TableRow, build_table
from tests.data.tables import random_table


@pytest.fixture
def table():
    return random_table(np.random.default_rng(0), cases=120, conditions=12)


def names(table, row: int) -> set[str]:
    return {name for name, weight in zip(table.conditions, table.labels[row], strict=True) if weight > 0}


def test_keep_rows_renumbers_and_says_why(table):
    mask = np.arange(len(table)) % 2 == 0
    kept = keep_rows(table, mask, "every second one")
    assert kept.frame.index.tolist() == list(range(mask.sum()))
    assert kept.frame["image"].tolist() == table.frame["image"][mask].tolist()
    np.testing.assert_array_equal(kept.labels, table.labels[mask])
    assert kept.left_out == (LeftOut("every second one", int((~mask).sum())),)
    assert kept.read == table.read == len(table)
    with pytest.raises(UserError, match="no image is left"):
        keep_rows(table, np.zeros(len(table), dtype=bool), "all")


def test_keep_conditions_keeps_every_image_that_lists_one(table):
    wanted = ["c07", "c01", "c03"]
    kept = keep_conditions(table, wanted)
    assert kept.conditions == ("c01", "c03", "c07")
    expected = [i for i in range(len(table)) if names(table, i) & set(wanted)]
    assert kept.frame["image"].tolist() == table.frame["image"][expected].tolist()
    for new, old in enumerate(expected):
        assert names(kept, new) == names(table, old) & set(wanted)
        first = table.conditions[table.frame["primary"][old]]
        weights = {name: table.labels[old, table.conditions.index(name)] for name in names(kept, new)}
        now = kept.conditions[kept.frame["primary"][new]]
        assert now == first if first in wanted else weights[now] == max(weights.values())
    assert kept.read == table.read
    assert kept.left_out == (LeftOut("none of the conditions kept", len(table) - len(expected), asked=True),)


def columns_as(order: list[int]) -> list[TableRow]:
    """Rows of a multi-hot table whose columns stand in a given order."""
    rng = np.random.default_rng(4)
    rows = []
    for number in range(60):
        hot = set(rng.choice(6, size=rng.integers(1, 4), replace=False).tolist())
        rows.append(TableRow(f"{number}.jpg", {f"c{c}": 1.0 for c in order if c in hot}, number + 1))
    return rows


def test_the_order_of_columns_changes_nothing():
    tables = [
        build_table(columns_as(order), root=Path("x"), source="t", ordered=False)
        for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4])
    ]
    for change in (lambda t: t, lambda t: keep_conditions(t, ["c1", "c4"]), lambda t: drop_rare_conditions(t, 20)):
        left, right = map(change, tables)
        assert left.frame.equals(right.frame)
        np.testing.assert_array_equal(left.labels, right.labels)


def test_names_that_become_one_get_the_higher_weight():
    weights = {"a": 0.2, "b": 0.7, "c": 0.5}
    assert rename_conditions(weights, {"a": "x", "b": "x", "c": None}) == {"x": 0.7}
    assert rename_conditions(weights, {}) == weights


def test_keep_primary_against_a_loop(table):
    wanted = ["c07", "c01", "c03"]
    kept = keep_conditions(table, wanted, "another condition comes first", by="primary")
    assert kept.conditions == ("c01", "c03", "c07")
    expected = [i for i in range(len(table)) if table.conditions[table.frame["primary"][i]] in wanted]
    assert kept.frame["image"].tolist() == table.frame["image"][expected].tolist()
    for new, old in enumerate(expected):
        assert names(kept, new) == names(table, old) & set(wanted)
        assert kept.conditions[kept.frame["primary"][new]] == table.conditions[table.frame["primary"][old]]
    assert kept.left_out[0].count == len(table) - len(expected)


def test_keep_conditions_names_those_there_are(table):
    with pytest.raises(UserError, match=r"'Acne'; there are c00, c01"):
        keep_conditions(table, ["Acne"])


def test_no_rare_condition_is_left(table):
    kept = drop_rare_conditions(table, 25)
    counts = (kept.labels > 0).sum(axis=0)
    assert 0 < len(kept.conditions) < len(table.conditions)
    assert counts.min() >= 25
    assert (kept.labels.sum(axis=1) > 0).all()
    # exactly as many as the rarest of those left is still enough
    assert drop_rare_conditions(kept, int(counts.min())) is kept
    assert len(drop_rare_conditions(kept, int(counts.min()) + 1).conditions) < len(kept.conditions)
    with pytest.raises(UserError, match="no condition has 5,000 images"):
        drop_rare_conditions(table, 5000)
