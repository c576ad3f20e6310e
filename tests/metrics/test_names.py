"""One table of names: what a reader sees, and what config and logs call the metrics."""

import ast
from pathlib import Path

import pytest

import siglip_med.metrics as room
from siglip_med.metrics import (
    CHOOSING,
    HEADLINE_METRICS,
    KEY_METRICS,
    LOWER_IS_BETTER,
    RESAMPLED_METRICS,
    SUMMARY_METRICS,
    headline_metrics,
    metric_label,
    names_by,
    table_label,
)
from siglip_med.metrics.names import METRICS
from tests.metrics.simulated import make_predictions
from tests.short_runs import compose_config

ROOT = Path(__file__).resolve().parents[2]


def test_every_metric_has_one_name_and_labels_of_its_own():
    for names in ([m.name for m in METRICS], [m.label for m in METRICS], [m.short for m in METRICS]):
        assert len(set(names)) == len(names)
    assert all(len(metric.short) <= len(metric.label) for metric in METRICS)


def test_groups_and_charts_hold_every_metric_once():
    for parts in (names_by("group"), names_by("chart")):
        assert sorted(name for names in parts.values() for name in names) == sorted(HEADLINE_METRICS)


def test_better_predictions_move_every_metric_in_its_stated_direction():
    poor, good = (headline_metrics(make_predictions(images=600, signal=signal)) for signal in (0.5, 3.0))
    embeddings = {"spearman_text_d", "spearman_image_d"}  # the simulated embeddings do not follow the signal
    confidence = {"ece", "icd_distance_mistakes"}  # they need not improve with the ranking
    for name in set(HEADLINE_METRICS) - embeddings - confidence:
        assert (good[name] < poor[name]) == (name in LOWER_IS_BETTER), name


def test_what_is_shown_with_an_interval_has_one():
    assert set(KEY_METRICS) <= set(RESAMPLED_METRICS)
    assert set(KEY_METRICS) <= set(SUMMARY_METRICS)
    assert CHOOSING in KEY_METRICS


@pytest.mark.parametrize("conditions", [1, 4, 5])
def test_a_list_as_long_as_all_conditions_says_so_wherever_it_is_named(conditions):
    p = make_predictions(conditions=8).take([0, 1, 2])
    for name in HEADLINE_METRICS:
        said = "all" in metric_label(name, conditions) and "conditions" in metric_label(name, conditions)
        assert said == ("5" in name or ("at_1" in name and conditions == 1)), name
        assert "conditions" not in metric_label(name, len(p.conditions))
    assert metric_label("r_at_5", conditions) == f"R@5 (all {conditions} conditions: always 1)"
    assert table_label("icd_distance_top5", 5).endswith("(all 5 conditions: the same for every order) ↓")


def test_metrics_that_are_said_to_say_nothing_do_not_depend_on_the_order():
    a, b = (headline_metrics(make_predictions(conditions=5, signal=signal)) for signal in (0.0, 3.0))
    constant = {name for name in HEADLINE_METRICS if a[name] == pytest.approx(b[name], abs=1e-12)}
    said = {name for name in HEADLINE_METRICS if "all 5 conditions" in metric_label(name, 5)}
    assert said == constant - {"spearman_text_d", "spearman_image_d"}  # made without looking at the signal


def test_the_metric_that_chooses_can_move_with_two_conditions_and_the_config_chooses_by_it():
    assert metric_label(CHOOSING, 2) == metric_label(CHOOSING)
    config = compose_config()
    assert config.monitor == f"val/{CHOOSING}"
    assert config.mode == ("min" if CHOOSING in LOWER_IS_BETTER else "max")
    for sweep in sorted(path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml")):
        chosen = compose_config(f"sweep={sweep}").optimized_metric
        assert chosen in (None, f"tuned/val/{CHOOSING}"), sweep


def test_training_and_evaluation_take_intervals_alike():
    training, report = compose_config().evaluation, compose_config(name="evaluate").report
    assert (training.bootstrap, training.coverage) == (report.bootstrap, report.coverage)


def test_what_the_room_exports_is_what_others_use():
    used = set()
    folders = (ROOT / name for name in ("siglip_med", "benchmarks", "experiments"))
    for path in (found for folder in folders for found in folder.rglob("*.py")):
        if (ROOT / "siglip_med" / "metrics") in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("siglip_med.metrics"):
                assert node.module == "siglip_med.metrics", f"{path} reaches into {node.module}"
                used |= {alias.name for alias in node.names}
    documented = {"text_to_image"}  # docs/metrics.md, for a notebook
    assert used | documented == set(room.__all__)
