"""The table at the end of a run, and what metrics.json holds of it."""

import json

import pytest

from siglip_med.metrics import CHOOSING, KEY_METRICS, SUMMARY_METRICS, Bootstrap, per_case, table_label
from siglip_med.report.summary import RunSummary, SplitPredictions
from tests.report.synthetic_run import synthetic_predictions


def summary(conditions: int) -> RunSummary:
    zero_shot, tuned = (
        SplitPredictions(
            synthetic_predictions(conditions=conditions, skill=skill, seed=1, split="val"),
            synthetic_predictions(conditions=conditions, skill=skill),
        )
        for skill in (0.3, 2.0)
    )
    return RunSummary(zero_shot, tuned, Bootstrap(50))


@pytest.mark.parametrize("conditions", [5, 12])
def test_the_table_names_every_metric_and_says_where_one_says_nothing(conditions):
    table = summary(conditions).table()
    labels = list(table.columns[0].cells)
    assert labels == [table_label(name, conditions) for name in SUMMARY_METRICS]
    assert ("R@5 (all 5 conditions: always 1)" in labels) == (conditions == 5)
    assert {"mean reciprocal rank (MRR)", "mean average precision (mAP)"} <= set(labels)


def test_key_metrics_have_intervals_on_screen_in_json_and_for_the_model_card(tmp_path):
    judged = summary(12)
    judged.save(tmp_path / "metrics.json", "layered", 3)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert (content["name"], content["seed"], content["conditions"]) == ("layered", 3, 12)
    expected = Bootstrap(50).intervals(judged.tuned.test, KEY_METRICS)
    for name in KEY_METRICS:
        assert content["test_intervals"][name]["low"] == expected[name].low
        row = SUMMARY_METRICS.index(name)
        assert f"[{expected[name].low:.3f}, {expected[name].high:.3f}]" in list(judged.table().columns[1].cells)[row]
        change = content["metrics"][f"tuned/test/{name}"] - content["metrics"][f"zero_shot/test/{name}"]
        assert content["test_changes"][name]["difference"] == pytest.approx(change)
    cases = Bootstrap(50).intervals(per_case(judged.tuned.test), KEY_METRICS)
    for name in KEY_METRICS:
        assert content["test_intervals"][f"case_{name}"]["high"] == cases[name].high
        assert content["metrics"][f"tuned/test/case_{name}"] == cases[name].estimate
        shown = list(judged.table().columns[2].cells)[SUMMARY_METRICS.index(name)]
        assert shown == f"{cases[name].estimate:.3f} [{cases[name].low:.3f}, {cases[name].high:.3f}]"
    assert set(judged.for_model_card()) == set(KEY_METRICS)
    assert {"zero_shot", "tuned", "label_frequency", "chance"} == {key.split("/")[0] for key in content["metrics"]}
    assert f"chance/test/{CHOOSING}" in content["metrics"]
