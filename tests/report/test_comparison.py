"""Run folders held against each other: signs, verdicts and pages agree with the metrics themselves."""

import json
from dataclasses import replace

import numpy as np
import pytest

from siglip_med.core.errors import UserError
from siglip_med.core.provenance import Provenance
from siglip_med.metrics import RESAMPLED_METRICS, Bootstrap, headline_metrics
from siglip_med.report.comparison import compare_runs
from tests.report.synthetic_run import synthetic_predictions

BOOTSTRAP = Bootstrap(200, 4)
GOOD, POOR = synthetic_predictions(skill=2.0), synthetic_predictions(skill=0.5)


def compared(folder, **runs):
    """The JSON of a comparison of some runs, its rows by setting and metric, and its page."""
    for name, predictions in runs.items():
        predictions.save(folder / name / "predictions" / "test")
    page, table = compare_runs([folder / name for name in runs], folder / "out", BOOTSTRAP)
    content = json.loads((folder / "out" / "comparison.json").read_text())
    return content, {(row[0], row[1]): row for row in table.rows}, page


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return compared(tmp_path_factory.mktemp("runs"), good=GOOD, poor=POOR)


def test_values_and_results_are_those_of_the_metrics(comparison):
    content, rows, _ = comparison
    good, poor = headline_metrics(GOOD), headline_metrics(POOR)
    expected = BOOTSTRAP.paired([(GOOD, POOR)], RESAMPLED_METRICS)
    found = content["differences"]["good"]
    assert list(found) == list(RESAMPLED_METRICS)
    for name in RESAMPLED_METRICS:
        for key in ("difference", "low", "high", "p_value", "minimum_detectable_difference"):
            assert found[name][key] == pytest.approx(getattr(expected[name], key), nan_ok=True)
    assert rows["good", "R@1 (accuracy)"][2:4] == (f"{good['r_at_1']:.3f}", f"{poor['r_at_1']:.3f}")


def test_verdict_knows_which_way_is_better(comparison, tmp_path):
    content, rows, _ = comparison
    distance = next(name for _, name in rows if name.startswith("ICD distance, all"))
    assert content["differences"]["good"]["r_at_1"]["low"] > 0
    assert content["differences"]["good"]["icd_distance_all"]["high"] < 0
    assert rows["good", "R@1 (accuracy)"][-1] == rows["good", distance][-1] == "better"
    _, turned, _ = compared(tmp_path, poor=POOR, good=GOOD)
    assert turned["poor", "R@1 (accuracy)"][-1] == turned["poor", distance][-1] == "worse"


def test_a_run_against_itself_shows_nothing(tmp_path):
    content, rows, _ = compared(tmp_path, a=GOOD, b=GOOD)
    assert {row[-1] for row in rows.values()} == {"no difference shown"}
    counts = content["first_predictions"]
    assert (counts["first"], counts["second"]) == (0, 0)
    assert counts["both"] + counts["neither"] == len(GOOD)


def test_images_are_matched_by_name_and_not_by_row(comparison, tmp_path):
    shuffled = POOR.take(np.random.default_rng(0).permutation(len(POOR)))
    rows = np.arange(len(GOOD))
    a, b = (p.positive[rows, p.logits.argmax(axis=1)] for p in (GOOD, POOR))
    counts = {"both": (a & b).sum(), "first": (a & ~b).sum(), "second": (~a & b).sum(), "neither": (~a & ~b).sum()}
    for content in (comparison[0], compared(tmp_path, good=GOOD, poor=shuffled)[0]):
        assert content["first_predictions"] == counts
        assert content["differences"]["good"]["r_at_1"]["difference"] == pytest.approx(a.mean() - b.mean())


def test_page_markdown_and_json_agree(comparison):
    content, _, page = comparison
    result = content["differences"]["good"]["r_at_1"]
    for text in (page.read_text(), page.with_suffix(".md").read_text()):
        assert f"{result['difference']:+.3f}" in text
        assert f"{result['minimum_detectable_difference']:.3f}" in text
    assert "data:image/png;base64," in page.read_text()


def test_the_page_says_what_the_images_are_gives_each_run_its_interval_and_calls_an_ensemble_so(tmp_path):
    joint = replace(GOOD, meta=GOOD.meta | {"scores": "mean_logit of 2 models: a, b"})
    drawn = Provenance("drawings", "made up", "CC0")
    runs = {"2026-11-29_21-06-01": joint, "poor": POOR}
    runs = {name: replace(run, provenance=drawn) for name, run in runs.items()}
    page = compared(tmp_path, **runs)[2].with_suffix(".md").read_text()
    assert page.startswith("**Made from DRAWINGS")
    assert "2026-11-29" not in page
    own = BOOTSTRAP.intervals(GOOD, ["r_at_1"])["r_at_1"]
    row = next(line for line in page.splitlines() if line.startswith("| ensemble | 1 |"))
    assert f"{own.estimate:.3f} [{own.low:.3f}, {own.high:.3f}]" in row


def test_three_runs_are_held_against_the_last(tmp_path):
    middle = synthetic_predictions(skill=1.0)
    content, rows, page = compared(tmp_path, good=GOOD, middle=middle, poor=POOR)
    assert list(content["differences"]) == ["good", "middle"]
    assert "first_predictions" not in content
    expected = headline_metrics(middle)["mrr"] - headline_metrics(POOR)["mrr"]
    assert content["differences"]["middle"]["mrr"]["difference"] == pytest.approx(expected)
    assert "good, middle against poor" in page.read_text()
    assert len(rows) == 2 * len(RESAMPLED_METRICS)


def test_run_folders_are_named_apart(tmp_path):
    content, _, _ = compared(tmp_path, **{"sweep_a/0": GOOD, "sweep_b/0": POOR})
    assert list(content["differences"]) == ["sweep_a/0"]


def test_wrong_folders_are_one_line(tmp_path):
    GOOD.save(tmp_path / "a" / "predictions" / "test")
    with pytest.raises(UserError, match=r"compare: .*b holds no predictions/test"):
        compare_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "out", BOOTSTRAP)
    with pytest.raises(UserError, match="is given twice; give different run folders"):
        compare_runs([tmp_path / "a", tmp_path / "a"], tmp_path / "out", BOOTSTRAP)
    renamed = replace(POOR, frame=POOR.frame.assign(image=[f"x{i}" for i in range(len(POOR))]))
    renamed.save(tmp_path / "b" / "predictions" / "test")
    with pytest.raises(UserError, match="different images"):
        compare_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "out", BOOTSTRAP)
    assert not (tmp_path / "out").exists()


def test_with_five_conditions_a_comparison_says_that_r_at_5_is_always_1(tmp_path):
    a, b = (synthetic_predictions(conditions=5, skill=skill) for skill in (2.0, 0.5))
    _, rows, _ = compared(tmp_path, a=a, b=b)
    assert rows["a", "R@5 (all 5 conditions: always 1)"][-1] == "no difference shown"
