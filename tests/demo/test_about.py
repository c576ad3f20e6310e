"""The page says what its model was trained on, when, on how much, and what its tests found."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime

from siglip_med.commands.demo import about
from siglip_med.core.provenance import Provenance, sentence
from siglip_med.demo import views
from siglip_med.metrics import table_label
from tests.demo.conftest import LIMITS


def of(answerer, provenance):
    payload = answerer.classifier.payload | {"provenance": provenance and provenance.as_dict()}
    return replace(answerer, classifier=replace(answerer.classifier, payload=payload))


def test_size_day_and_numbers_are_those_of_the_run(answerer, short_run):
    table, split, summary = short_run.components.data.table, short_run.components.data.split, short_run.summary
    trained, tested, elsewhere = about(short_run.best, answerer.classifier.payload)
    started = json.loads((short_run.folder / "run.json").read_text())["started"]
    cases = len(set(table.cases[split.train]))
    day = datetime.fromtimestamp(started, UTC).date().isoformat()
    assert trained == f"Trained {day}, on {len(split.train):,} images of {cases:,} cases."
    assert tested.startswith(f"Tested on {len(split.test):,} images of {len(set(table.cases[split.test])):,} cases")
    for name in ("r_at_1", "r_at_5", "mrr"):
        one = summary.intervals[name]
        label = table_label(name, len(table.conditions))
        assert f"{label} {one.estimate:.3f} [{one.low:.3f}, {one.high:.3f}]" in tested
    prior = summary.baselines["class prior"]["r_at_1"]
    assert f"most frequent condition: R@1 {prior.estimate:.3f} [{prior.low:.3f}, {prior.high:.3f}]" in tested
    assert elsewhere == "No test on another data set is recorded here."


def test_external_validations_beside_the_run_are_told(answerer, short_run, tmp_path):
    for name in ("run.json", "split_report.json"):
        shutil.copy(short_run.folder / name, tmp_path)
    found = {key: {"external": {"estimate": 0.25, "low": 0.2, "high": 0.3}} for key in ("r_at_1", "mrr")}
    found["mrr"] = {"external": {"estimate": None, "low": None, "high": None}}
    place = tmp_path / "external" / "clinic"
    place.mkdir(parents=True)
    (place / "metrics.json").write_text(json.dumps({"judged": [1200, 300], "compared": found}))
    (tmp_path / "external" / "drawn").mkdir()
    drawn = {"judged": [2, 1], "compared": found, "notice": sentence(Provenance("drawings", "Ours", "CC0"))}
    (tmp_path / "external" / "drawn" / "metrics.json").write_text(json.dumps(drawn))
    told = about(tmp_path / "checkpoints" / "best.ckpt", answerer.classifier.payload)
    numbers = "R@1 0.250 [0.200, 0.300], MRR –"
    first = f"Tested elsewhere: clinic, 1,200 images of 300 cases: {numbers}"
    assert told[2] == f"{first}; drawn (DRAWINGS), 2 images of 1 cases: {numbers}."


def test_a_checkpoint_alone_says_what_is_not_recorded(answerer, tmp_path):
    payload = answerer.classifier.payload | {"metrics": {}}
    trained, tested, _ = about(tmp_path / "moved.ckpt", payload)
    assert "a day that is not recorded here, on a number of images that is not recorded here" in trained
    assert tested == "Its test is not recorded here; the card of an export has it."
    undefined = payload | {"metrics": {"mrr": {"estimate": float("nan"), "low": None, "high": None}}}
    assert about(tmp_path / "moved.ckpt", undefined)[1].startswith("Tested: mean reciprocal rank (MRR) –, ")


def test_drawings_stay_in_sight_and_photographs_are_named(answerer):
    drawn = of(answerer, Provenance("drawings", "Ours", "CC0"))
    assert "Trained on DRAWINGS" in views.banner(drawn)
    assert "Made from DRAWINGS" in views.heading(drawn, LIMITS)
    shown = of(answerer, Provenance("photographs", "<SCIN>", "CC0"))
    assert "DRAWINGS" not in views.banner(shown)
    assert "photographs of people: &lt;SCIN&gt;" in views.heading(replace(shown, about=("Trained & tested.",)), LIMITS)
    assert "Trained &amp; tested." in views.heading(replace(shown, about=("Trained & tested.",)), LIMITS)
    assert "do not say whether they are photographs or drawings" in views.heading(of(answerer, None), LIMITS)
