"""The intervals and the choice of checkpoints, by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.tables import by_nearness, checkpoint_choice, corrected_interval, plane, tuning_table


def test_without_test_images_the_interval_is_students():
    values = [0.01, 0.03, -0.02, 0.05]
    mean, low, high = corrected_interval(values, train_images=100, test_images=0)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((np.mean(values), expected.low, expected.high))


def test_overlapping_splits_widen_it_as_nadeau_and_bengio_say():
    values = [0.01, 0.03, -0.02, 0.05, 0.02]
    mean, low, high = corrected_interval(values, train_images=700, test_images=150)
    half = stats.t.ppf(0.975, 4) * math.sqrt((1 / 5 + 150 / 700) * np.var(values, ddof=1))
    assert (mean - low, high - mean) == pytest.approx((half, half))


def test_one_split_has_no_interval():
    mean, low, high = corrected_interval([0.2], 70, 15)
    assert mean == 0.2
    assert math.isnan(low)
    assert math.isnan(high)


def test_a_checkpoint_is_chosen_by_validation_and_judged_by_test():
    metrics = ("r_at_1", "r_at_5", "mrr", "map", "icd_distance_top5")

    def point(step: int, val: float, test: float) -> dict:
        return {"step": step, "val": dict.fromkeys(metrics, val), "test": dict.fromkeys(metrics, test)}

    run = {"curve": [point(10, 0.4, 0.3), point(20, 0.6, 0.2), point(40, 0.5, 0.5)]}
    table = checkpoint_choice([run, run])
    row = table[table["kept"] == "best MRR"].iloc[0]
    assert row["R@1"] == "-0.3000 ± 0.0000"
    assert row["at, of the run"] == "0.50"


def test_chosen_settings_are_shown_whole():
    trials = [
        {"variant": "a", "trial": trial, "knobs": knobs, "last": {"val": {"mrr": value}}}
        for trial, knobs, value in ((0, [], 0.5), (1, ["optimizer.head_learning_rate=0.005", "model.dropout=0.2"], 0.6))
    ]
    (line,) = tuning_table(trials, "mrr").to_dict("records")
    assert line["chosen"] == "head_learning_rate=0.005, dropout=0.2"


def test_the_table_by_nearness_has_a_line_per_share_and_a_column_per_method():
    rows = [
        {"variant": name, "end": "last"} | {f"near_{place}": value + 0.1 * place for place in range(5)}
        for name, values in {"a": (0.2, 0.4), "b": (0.3, 0.3)}.items()
        for value in values
    ]
    lines = by_nearness(pd.DataFrame(rows)).to_dict("records")
    assert [line["a"] for line in lines] == [f"{0.3 + 0.1 * place:.3f} ± 0.141" for place in range(5)]
    assert lines[0]["b"] == "0.300 ± 0.000"
    assert lines[-1]["share of test images, from the farthest"] == "90 to 100%"


def test_a_dot_of_the_plane_is_a_mean_and_its_bars_are_those_of_the_difference():
    rows = [
        {"variant": name, "end": end, "seed": seed, "train_images": 70, "test_images": 15,
         "icd_distance_top5": 0.6 + 0.01 * place + 0.001 * seed * place, "r_at_1": 0.5 + 0.02 * seed + (end == "crm")}
        for place, name in enumerate(("sigmoid", "layered"))
        for end in ("last", "crm")
        for seed in range(3)
    ]  # fmt: skip
    found = plane(pd.DataFrame(rows), "sigmoid", ["sigmoid", "layered"])
    assert found.loc["sigmoid"].tolist() == pytest.approx([0.6, 0.0, 0.52, 0.0])
    changes = [0.01, 0.011, 0.012]
    half = stats.t.ppf(0.975, 2) * math.sqrt((1 / 3 + 15 / 70) * np.var(changes, ddof=1))
    assert found.loc["layered"].tolist() == pytest.approx([0.611, half, 0.52, 0.0])
