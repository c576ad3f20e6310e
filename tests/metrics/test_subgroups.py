import numpy as np
import pandas as pd
import pytest

from siglip_med.metrics import Bootstrap, headline_metrics, subgroup_metrics, worst_gaps
from siglip_med.metrics.subgroups import frequency_groups, subgroup_masks
from tests.metrics.simulated import make_predictions


def test_each_group_is_judged_on_its_own_images():
    p = make_predictions()
    table = subgroup_metrics(p, minimum_images=30)
    for _, row in table[table["attribute"].isin(p.frame.columns)].iterrows():
        value = "" if row["group"] == "unknown" else row["group"]
        rows = [index for index, own in enumerate(p.frame[row["attribute"]]) if own == value]
        part = p.take(np.array(rows))
        assert (row["images"], row["cases"]) == (len(rows), part.frame["case"].nunique())
        assert row["small"] == (len(rows) < 30)
        expected = headline_metrics(part)
        for name in ("r_at_1", "macro_r_at_5", "icd_distance_all", "macro_auc"):
            assert row[name] == pytest.approx(expected[name])


def test_a_group_of_exactly_the_minimum_is_not_small():
    p = make_predictions()
    images = int((p.frame["sex"] == "female").sum())
    for minimum, small in ((images - 1, False), (images, False), (images + 1, True)):
        table = subgroup_metrics(p, ("sex",), ("r_at_1",), minimum_images=minimum).set_index("group")
        assert table.loc["female", "small"] == small, minimum
    thirty = p.take(np.flatnonzero(p.frame["sex"] == "female")[:30])
    assert not subgroup_metrics(thirty, ("sex",), ("r_at_1",))["small"].any()
    assert subgroup_metrics(thirty.take(np.arange(29)), ("sex",), ("r_at_1",))["small"].all()


def test_groups_of_an_attribute_share_out_the_images():
    p = make_predictions()
    for attribute in ("skin_tone", "sex", "age_group", "site", "frequency"):
        masks = [mask for name, _, mask in subgroup_masks(p) if name == attribute]
        assert (np.sum(masks, axis=0) == 1).all()


def test_frequency_is_by_thirds_of_the_conditions():
    groups = frequency_groups(np.array([5, 100, 0, 40, 7, 7]))
    assert groups.tolist() == ["tail", "head", "tail", "head", "middle", "middle"]


def test_images_take_the_frequency_of_their_primary_condition():
    p = make_predictions()
    groups = frequency_groups(p.train_counts)
    for attribute, name, mask in subgroup_masks(p, ("frequency",)):
        assert attribute == "frequency"
        assert set(groups[p.primary[mask]]) == {name}


def test_unknown_is_shown_last_and_never_counts_toward_the_gap():
    table = pd.DataFrame(
        {
            "attribute": "skin_tone",
            "group": ["1", "3", "6", "unknown"],
            "small": [False, False, True, False],
            "r_at_1": [0.6, 0.5, 0.1, 0.0],
            "icd_distance_all": [0.2, 0.3, 0.9, 1.0],
        }
    )
    gaps = worst_gaps(table, ("r_at_1", "icd_distance_all")).set_index("metric")
    assert gaps.loc["r_at_1", ["best", "worst"]].tolist() == ["1", "3"]
    assert gaps.loc["icd_distance_all", ["best", "worst"]].tolist() == ["1", "3"]
    assert gaps.loc["r_at_1", "gap"] == pytest.approx(0.1)
    assert gaps.loc["r_at_1", "gap_with_small"] == pytest.approx(0.5)
    assert gaps.loc["icd_distance_all", "gap_with_small"] == pytest.approx(0.7)
    assert gaps.loc["r_at_1", ["groups", "small_groups"]].tolist() == [2, 1]
    names = [name for attribute, name, _ in subgroup_masks(make_predictions()) if attribute == "skin_tone"]
    assert names == ["1", "3", "6", "unknown"]


def test_one_group_has_no_gap():
    table = subgroup_metrics(make_predictions().take(np.arange(40)), ("sex",), ("r_at_1",), minimum_images=1)
    only = table[table["group"] == "male"]
    assert np.isnan(worst_gaps(only, ("r_at_1",))["gap"].iloc[0])


def test_intervals_of_a_group():
    p = make_predictions()
    table = subgroup_metrics(p, ("age_group",), ("r_at_1",), bootstrap=Bootstrap(200, seed=3))
    mask = (p.frame["age_group"] == "18-29").to_numpy()
    interval = Bootstrap(200, 3).intervals(p.take(mask), ("r_at_1",))["r_at_1"]
    assert table.loc[0, ["r_at_1_low", "r_at_1_high"]].tolist() == [interval.low, interval.high]
