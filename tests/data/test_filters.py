import numpy as np
import pytest

from siglip_med.data.filters import drop_rare_conditions, keep_conditions, keep_rows
from siglip_med.errors import UserError
from tests.data.tables import random_table


@pytest.fixture
def table():
    return random_table(np.random.default_rng(0), cases=120, conditions=12)


def names(table, row: int) -> set[str]:
    return {name for name, weight in zip(table.conditions, table.labels[row], strict=True) if weight > 0}


def test_keep_rows_renumbers_and_says_why(table):
    mask = np.arange(len(table)) % 2 == 0
    kept = keep_rows(table, mask, "every second one is left out")
    assert kept.frame.index.tolist() == list(range(mask.sum()))
    assert kept.frame["image"].tolist() == table.frame["image"][mask].tolist()
    np.testing.assert_array_equal(kept.labels, table.labels[mask])
    assert kept.notes[-1] == "every second one is left out"
    with pytest.raises(UserError, match="no image is left"):
        keep_rows(table, np.zeros(len(table), dtype=bool))


def test_keep_conditions_against_a_loop(table):
    wanted = ["c07", "c01", "c03"]
    kept = keep_conditions(table, wanted)
    assert kept.conditions == ("c01", "c03", "c07")
    expected = [i for i in range(len(table)) if table.conditions[table.frame["primary"][i]] in wanted]
    assert kept.frame["image"].tolist() == table.frame["image"][expected].tolist()
    for new, old in enumerate(expected):
        assert names(kept, new) == names(table, old) & set(wanted)
        assert kept.conditions[kept.frame["primary"][new]] == table.conditions[table.frame["primary"][old]]
    assert f"{len(table) - len(expected)} images" in kept.notes[-1]


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
