"""The leaderboard: means over seeds, ranked by validation and never by test."""

import json

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy import stats

from siglip_med.metrics import Bootstrap, Predictions
from siglip_med.report.leaderboard import over_seeds, read_runs, student_interval, summarize
from siglip_med.report.leaderboard_page import Leaderboard, write_leaderboard
from siglip_med.sweeps import JobRecord, write_record


def write_run(folder, name, seed, val, test, conditions=21):
    run = folder / f"{name}_{seed}"
    run.mkdir()
    metrics = {"tuned/val/mrr": val, "tuned/test/r_at_5": test, "tuned/val/r_at_5": 1 - val}
    about = {"name": name, "seed": seed, "conditions": conditions}
    (run / "metrics.json").write_text(json.dumps(about | {"metrics": metrics}))


def test_means_are_ranked_by_validation(tmp_path):
    for seed, (good, flattered) in enumerate([(0.8, 0.7), (0.9, 0.6)]):
        write_run(tmp_path, "flattered", seed, flattered, 0.99)
        write_run(tmp_path, "good", seed, good, 0.5 + seed / 10)
    table = summarize(read_runs(tmp_path))
    assert table["setting"].tolist() == ["good", "flattered"]
    assert table["seeds"].tolist() == [2, 2]
    assert table["R@5"][0] == f"0.550 ± {np.std([0.5, 0.6], ddof=1):.3f}"


@pytest.mark.parametrize(("prefix", "heading"), [("far_half_", "far half"), ("case_", "per case")])
def test_the_half_farthest_from_training_and_the_cases_have_their_own_columns(tmp_path, prefix, heading):
    write_run(tmp_path, "alone", 0, 0.5, 0.25)
    path = tmp_path / "alone_0" / "metrics.json"
    result = json.loads(path.read_text())
    result["metrics"][f"tuned/test/{prefix}r_at_1"] = 0.125
    path.write_text(json.dumps(result))
    assert summarize(read_runs(tmp_path))[f"R@1, {heading}"][0] == "0.125 ± –"


def test_one_seed_has_no_deviation(tmp_path):
    write_run(tmp_path, "alone", 0, 0.5, 0.25)
    assert summarize(read_runs(tmp_path))["R@5"][0] == "0.250 ± –"


def test_a_list_as_long_as_all_conditions_is_said_to_be_one(tmp_path):
    write_run(tmp_path, "five", 0, 0.5, 1.0, conditions=5)
    table = summarize(read_runs(tmp_path))
    assert list(table.columns) == ["setting", "seeds", "val MRR", "R@5 (all 5 conditions: always 1)"]
    write_run(tmp_path, "many", 0, 0.5, 0.9)
    assert summarize(read_runs(tmp_path)).columns[-1] == "R@5 (in some runs all 5 conditions: always 1)"


def test_the_callback_writes_both_tables_beside_the_runs(tmp_path, capsys):
    callback = Leaderboard()
    callback.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert not list(tmp_path.glob("leaderboard*"))
    write_run(tmp_path, "a", 0, 0.5, 0.25)
    write_run(tmp_path, "a", 1, 0.7, 0.35)
    callback.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert "| a | 2 | 0.600 (0.500, 0.700) | 0.300 (0.250, 0.350) |" in (tmp_path / "leaderboard.md").read_text()
    assert len((tmp_path / "leaderboard.csv").read_text().splitlines()) == 3
    shown = capsys.readouterr().out
    assert "0.300 ± 0.071" in shown
    assert "best validation MRR first" in shown


@pytest.mark.parametrize("values", [(0.99, 0.6, 0.98), (0.0, 0.1, 0.02, 0.01), (1.0, 1.0, 0.7)])
@pytest.mark.parametrize("metric", ["tuned/test/r_at_1", "tuned/test/far_half_mrr", "tuned/val/mrr"])
def test_an_interval_over_seeds_holds_its_mean_and_no_impossible_value(values, metric):
    mean, low, high = student_interval(values, 0.95, metric)
    assert 0 <= low < mean < high <= 1
    plain = student_interval(values, 0.95, "tuned/test/own/r_at_1")  # of one's own: its range is not known
    assert plain == pytest.approx((mean, *stats.t.interval(0.95, len(values) - 1, mean, stats.sem(values))))
    assert not 0 <= plain[1] < plain[2] <= 1
    near = np.array(values) / 1e4 + 0.3  # far from both ends the scale hardly matters
    assert student_interval(near, 0.95, metric) == pytest.approx(student_interval(near, 0.95), abs=1e-6)


@pytest.mark.parametrize("values", [(0.2, 0.8), (0.75, 0.75), (0.75,) * 3, (0.5,), ()])
def test_too_few_seeds_or_equal_ones_give_no_interval(values):
    assert np.isnan(student_interval(values, 0.95, "tuned/test/r_at_1")[1:]).all()


def test_the_page_says_what_was_judged_and_shows_the_baselines_last(tmp_path):
    for seed, probe in ((0, 0.5), (1, 0.75)):
        write_run(tmp_path, "best", seed, 0.9, 0.5)
        write_run(tmp_path, "other", seed, 0.1, 0.5)
        path = tmp_path / f"best_{seed}" / "metrics.json"
        content = json.loads(path.read_text()) | {
            "test_size": f"{seed} images of 1 cases",
            "notice": "Made from DRAWINGS",
        }
        content["metrics"] |= {"linear_probe/test/r_at_5": probe}
        path.write_text(json.dumps(content))
    page = write_leaderboard(tmp_path, read_runs(tmp_path), "best", Bootstrap(20)).with_suffix(".md").read_text()
    assert page.startswith("**Made from DRAWINGS**")
    assert "test split: 0 images of 1 cases; 1 images of 1 cases" in page
    assert "| linear probe | 2 | – | 0.625 |" in page
    assert "those of best's runs" in page
    assert "4 runs of 2 settings" in page


def test_differences_are_paired_by_seed_and_their_interval_is_scipys():
    random = np.random.default_rng(0)
    first, second = (0.2 * np.arange(4) + random.normal(0.3, 0.02, 4) for _ in range(2))
    rows = [("layered", seed, first[seed]) for seed in (3, 1, 0, 2)]  # another order: seeds pair, not rows
    rows += [("baseline", seed, second[seed]) for seed in range(4)] + [("single", 0, 0.9)]
    runs = pd.DataFrame(rows, columns=["setting", "seed", "tuned/test/r_at_1"])
    low, high = stats.ttest_rel(first, second).confidence_interval(0.95)
    found = over_seeds(runs, "layered", "baseline")
    assert found["r_at_1"] == pytest.approx(((first - second).mean(), low, high))
    assert over_seeds(runs, "single", "baseline") == {}


def test_runs_of_one_name_and_other_settings_are_other_rows(tmp_path):
    for rank, seed in ((4, 0), (4, 1), (8, 0)):
        write_run(tmp_path, f"layered_{rank}", seed, rank / 10, 0.5)
        run = tmp_path / f"layered_{rank}_{seed}"
        content = json.loads((run / "metrics.json").read_text()) | {"name": "layered"}
        (run / "metrics.json").write_text(json.dumps(content))
        (run / ".hydra").mkdir()
        words = ["experiment=layered", f"model.adaptation.rank={rank}", f"seed={seed}"]
        (run / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    table = summarize(read_runs(tmp_path))
    assert table["setting"].tolist() == ["layered model.adaptation.rank=8", "layered model.adaptation.rank=4"]
    assert table["seeds"].tolist() == [1, 2]


def test_the_page_pairs_each_setting_with_the_baseline_and_lists_what_gave_no_result(tmp_path):
    for seed in (0, 1):
        for name, predictions in (("baseline", poor(seed)), ("softmax", good(seed))):
            write_run(tmp_path, name, seed, 0.5, 0.5)
            predictions.save(tmp_path / f"{name}_{seed}" / "predictions" / "test")
    (tmp_path / "softmax_0" / "report").mkdir()
    (tmp_path / "softmax_0" / "report" / "report.html").write_text("")
    lost = JobRecord("0" * 16, "failed", "x", ("experiment=x",), reason="no such <file>", log="x/train.log")
    write_record(tmp_path, lost)
    page = write_leaderboard(tmp_path, read_runs(tmp_path), "baseline", Bootstrap(200))
    content = json.loads(page.with_suffix(".json").read_text())["differences"]["softmax"]["r_at_5"]
    expected = Bootstrap(200).paired([(good(s), poor(s)) for s in (0, 1)], ["r_at_5"])["r_at_5"]
    assert content["seeds"] == 2
    assert content["difference"] == expected.difference
    assert (content["low"], content["high"]) == (expected.low, expected.high)
    html = page.read_text()
    assert 'href="softmax_0/report/report.html"' in html
    assert 'href="softmax_1/"' in html
    assert "no such &lt;file&gt;" in html
    assert "http" not in html.replace("http-equiv", "")
    assert html.index(">validation<") < html.index(">test<")


def good(seed, cases=40):
    return simulated(seed, cases, 2.0)


def poor(seed, cases=40):
    return simulated(seed, cases, 0.5)


def simulated(seed, cases, strength):
    random = np.random.default_rng(seed)
    labels = np.eye(8)[random.integers(8, size=cases)]
    return Predictions.of(strength * labels + random.normal(size=(cases, 8)), labels)
