"""Comparison of two runs: signs, verdicts and pages agree with the metrics themselves."""

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from siglip_med.core.errors import UserError
from siglip_med.metrics import RESAMPLED_METRICS, Bootstrap, headline_metrics
from siglip_med.report import ReportSettings
from siglip_med.report.comparison import compare_predictions, compare_runs, write_comparison
from tests.report.synthetic_run import synthetic_predictions

SETTINGS = ReportSettings(bootstrap=200, seed=4)
GOOD, POOR = synthetic_predictions(skill=2.0), synthetic_predictions(skill=0.5)


@pytest.fixture(scope="module")
def comparison():
    return compare_predictions(GOOD, POOR, ("good", "poor"), SETTINGS)


def test_values_and_results_are_those_of_the_metrics(comparison):
    good, poor = headline_metrics(GOOD), headline_metrics(POOR)
    expected = Bootstrap(200, 4).paired([(GOOD, POOR)], RESAMPLED_METRICS)
    assert list(comparison.results) == list(RESAMPLED_METRICS)
    for name in RESAMPLED_METRICS:
        assert comparison.values[name] == pytest.approx((good[name], poor[name]), abs=1e-12)
        assert comparison.results[name] == expected[name]


def test_verdict_knows_which_way_is_better(comparison):
    assert comparison.results["r_at_1"].low > 0
    assert comparison.verdict("r_at_1") == "good better"
    assert comparison.results["icd_distance_all"].high < 0
    assert comparison.verdict("icd_distance_all") == "good better"
    turned = compare_predictions(POOR, GOOD, ("poor", "good"), SETTINGS)
    assert turned.verdict("r_at_1") == turned.verdict("icd_distance_all") == "good better"


def test_a_run_against_itself_shows_nothing():
    same = compare_predictions(GOOD, GOOD, ("a", "b"), SETTINGS)
    assert {same.verdict(metric) for metric in RESAMPLED_METRICS} == {"no difference shown"}
    assert (same.only_a, same.only_b) == (0, 0)
    assert same.both_right + same.neither == len(GOOD)


def test_images_are_matched_by_name_and_not_by_row(comparison):
    shuffled = POOR.take(np.random.default_rng(0).permutation(len(POOR)))
    again = compare_predictions(GOOD, shuffled, ("good", "poor"), SETTINGS)
    rows = np.arange(len(GOOD))
    a, b = (p.positive[rows, p.logits.argmax(axis=1)] for p in (GOOD, POOR))
    counts = (int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum()))
    for c in (comparison, again):
        assert (c.both_right, c.only_a, c.only_b, c.neither) == counts
        assert c.results["r_at_1"].difference == pytest.approx(a.mean() - b.mean())


def test_page_markdown_json_and_screen_agree(comparison, tmp_path):
    page = write_comparison(comparison, tmp_path)
    content = json.loads((tmp_path / "comparison.json").read_text())["comparison"]
    result = comparison.results["r_at_1"]
    assert content["results"]["r_at_1"]["p_value"] == result.p_value
    console = Console(width=200, record=True, file=(tmp_path / "screen.txt").open("w"))
    console.print(comparison.screen_table())
    difference, smallest = f"{result.difference:+.3f}", f"{result.minimum_detectable_difference:.3f}"
    for text in (page.read_text(), (tmp_path / "comparison.md").read_text(), console.export_text()):
        assert difference in text
        assert smallest in text
        assert "good better" in text
    assert "data:image/png;base64," in page.read_text()


def test_run_folders_are_named_apart(tmp_path):
    for name, predictions in (("sweep_a/0", GOOD), ("sweep_b/0", POOR)):
        predictions.save(tmp_path / name / "predictions" / "test")
    comparison = compare_runs(tmp_path / "sweep_a" / "0", tmp_path / "sweep_b" / "0", SETTINGS)
    assert comparison.names == ("sweep_a/0", "sweep_b/0")


def test_wrong_folders_are_one_line(tmp_path):
    GOOD.save(tmp_path / "a" / "predictions" / "test")
    with pytest.raises(UserError, match=r"compare: .*b holds no predictions/test"):
        compare_runs(tmp_path / "a", tmp_path / "b", SETTINGS)
    with pytest.raises(UserError, match="two different run folders"):
        compare_runs(tmp_path / "a", tmp_path / "a", SETTINGS)
    renamed = replace(POOR, frame=POOR.frame.assign(image=[f"x{i}" for i in range(len(POOR))]))
    renamed.save(tmp_path / "b" / "predictions" / "test")
    with pytest.raises(UserError, match="different images"):
        compare_runs(tmp_path / "a", tmp_path / "b", SETTINGS)


def test_with_five_conditions_a_comparison_says_that_r_at_5_is_always_1():
    a, b = (synthetic_predictions(conditions=5, skill=skill) for skill in (2.0, 0.5))
    rows = compare_predictions(a, b, ("a", "b"), SETTINGS)
    assert rows.row("r_at_5")[0] == "R@5 (all 5 conditions: always 1)"
    assert rows.verdict("r_at_5") == "no difference shown"
