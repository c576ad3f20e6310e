"""evaluate.py: which predictions a report is made of, and what a wrong command says."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from siglip_med.commands import evaluate
from siglip_med.commands.evaluate import run
from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from siglip_med.inference.neighbours import NEIGHBOURS, Neighbours
from siglip_med.metrics import Bootstrap, headline_metrics
from siglip_med.runs.folder import run_folder
from siglip_med.runs.stored import saved_predictions
from tests.report.synthetic_run import synthetic_predictions
from tests.short_runs import compose_config

ROOT = Path(__file__).resolve().parents[2]
TEST, VAL = synthetic_predictions(images=60), synthetic_predictions(images=60, seed=1, split="val")
OTHER = synthetic_predictions(images=60, skill=1.0)


def payload(predictions=TEST, **changes):
    metrics = Bootstrap(10).intervals(predictions, ("r_at_1", "icd_distance_all"))
    return {
        "metrics": {name: asdict(interval) for name, interval in metrics.items()},
        "conditions": list(predictions.conditions),
        "config": {"name": "layered", "seed": 3, "model": {"_target_": "siglip_med.models.siglip"}},
        "base": {"name": "tiny"},
        "split_hash": "0123456789abcdef",
    } | changes


@pytest.fixture
def folder(tmp_path):
    for name, predictions in {"val": VAL, "test": TEST, "zero_shot_test": OTHER}.items():
        predictions.save(tmp_path / "run" / "predictions" / name)
    return tmp_path / "run"


@pytest.fixture
def checkpoint_says(monkeypatch):
    """Puts a payload in the place of a checkpoint's, and counts what is predicted again."""

    def says(**content):
        predicted = []

        def predict_run(run):
            predicted.append(run)
            return {"val": VAL, "test": OTHER, "zero_shot_test": TEST}

        monkeypatch.setattr(evaluate, "read_checkpoint", lambda path: {"siglip_med": {"image_bits": 16} | content})
        monkeypatch.setattr(evaluate, "open_run", lambda path, cache, data, base, device, trust: (data, base, device))
        monkeypatch.setattr(evaluate, "predict_run", predict_run)
        monkeypatch.setattr(evaluate, "image_root", lambda path, cache_dir, data, trust: path.parent / "photographs")
        return predicted

    return says


def settings(*overrides):
    fast = ["report.bootstrap=20", "report.map_images=20", "paths.output_dir=unused"]
    return typed(compose_config(*fast, *overrides, name="evaluate"), evaluate.Settings)


def r_at_1(page: Path) -> bool:
    return f"{headline_metrics(TEST)['r_at_1']:.3f}" in page.read_text().split('<div class="value">')[1][:10]


def test_the_folder_of_a_checkpoint(tmp_path):
    assert run_folder(tmp_path / "run" / "checkpoints" / "best.ckpt") == tmp_path / "run"
    assert run_folder(tmp_path / "elsewhere" / "best.ckpt") == tmp_path / "elsewhere"


def test_saved_predictions_are_taken_only_for_their_own_checkpoint(folder):
    found = saved_predictions(folder, payload())
    assert found.keys() == {"val", "test", "zero_shot_test"}
    assert headline_metrics(found["test"]) == pytest.approx(headline_metrics(TEST), nan_ok=True)
    assert saved_predictions(folder, payload(OTHER)) is None
    assert saved_predictions(folder, payload(metrics={})) is None
    assert saved_predictions(folder, payload(conditions=[*TEST.conditions[:-1], "another"])) is None
    assert saved_predictions(folder / "none", payload()) is None


def test_a_report_uses_the_saved_predictions(folder, checkpoint_says):
    predicted = checkpoint_says(**payload())
    page = run(settings(f"checkpoint={folder / 'checkpoints' / 'best.ckpt'}")).page
    assert page == folder / "report" / "report.html"
    assert predicted == []
    assert r_at_1(page)
    text = page.read_text()
    assert "Evaluation of run" in text
    assert "0123456789ab" in text
    assert "0123456789abc" not in text
    assert "checkpoints/best.ckpt" in text


@pytest.mark.parametrize(
    ("overrides", "metrics_of", "expected"),
    [
        (["recompute=true"], TEST, ({}, None, "auto")),
        (["+data.source.root=/elsewhere"], TEST, ({"source": {"root": "/elsewhere"}}, None, "auto")),
        (["base={vision: a, text: b}", "device=cpu"], OTHER, ({}, {"vision": "a", "text": "b"}, "cpu")),
        (["base=a"], OTHER, ({}, "a", "auto")),
    ],
)
def test_a_report_predicts_again_where_it_must(
    folder, tmp_path, overrides, metrics_of, expected, monkeypatch, checkpoint_says
):
    reported = []
    monkeypatch.setattr("siglip_med.commands.evaluate.write_report", lambda *given: reported.append(given) or given[1])
    predicted, checkpoint = checkpoint_says(**payload(metrics_of)), folder / "checkpoints" / "last.ckpt"
    run(settings(f"checkpoint={checkpoint}", f"output={tmp_path / 'out'}", *overrides))
    assert predicted == [expected]
    inputs, target, _, checklist = reported[0]
    assert not checklist
    assert (inputs.test, inputs.val, inputs.zero_shot) == (OTHER, VAL, TEST)
    assert inputs.meta.facts["checkpoint"] == "checkpoints/last.ckpt"
    assert target == tmp_path / "out"


def test_photographs_come_from_the_data_of_the_run(folder, checkpoint_says):
    checkpoint_says(**payload())
    with pytest.raises(UserError, match=r"photographs/images/test_\d+\.png: the photograph is not there"):
        run(settings(f"checkpoint={folder / 'checkpoints' / 'best.ckpt'}", "report.images=true"))
    assert not (folder / "report").exists()


def test_the_surest_mistakes_are_explained_where_photographs_are_shown(short_run, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("siglip_med.report.sections.explanations.MOST", 4)  # drawing takes most of the time
    words = ("report.images=true", "device=cpu", f"paths.cache_dir={cache}", f"output={tmp_path}")
    page = run(settings(f"checkpoint='{short_run.best}'", *words)).page
    test, kept = short_run.tuned.test, Neighbours.load(short_run.folder / NEIGHBOURS, short_run.components.model)
    first = test.logits.argmax(axis=1)
    wrong = [row for row in range(len(test)) if test.labels[row, first[row]] == 0]
    expected = sorted(wrong, key=lambda row: -test.logits[row, first[row]])[:4]
    found = json.loads((tmp_path / "report.json").read_text())["mistakes"]["mistakes"]
    assert [item["image"] for item in found] == [test.frame["image"].iloc[row] for row in expected]
    assert [item["answer"] for item in found] == [test.conditions[first[row]] for row in expected]
    for item, row in zip(found, expected, strict=True):
        cosines = kept.embeddings @ test.image_embeddings[row]
        assert [one["cosine"] for one in item["nearest"]] == pytest.approx(sorted(cosines)[:-6:-1], abs=1e-4)
        (place,) = np.flatnonzero(kept.rows == item["nearest"][0]["row"])
        assert set(item["nearest"][0]["labels"]) == {kept.conditions[c] for c in np.flatnonzero(kept.labels[place])}
    drawn = sorted(path.stem for path in (tmp_path / "figures").glob("mistake_*"))
    assert drawn == [f"mistake_{number:02d}" for number in range(1, len(expected) + 1)]
    assert page.read_text().count('alt="The photograph, with relevance and occlusion and relevance, ') == len(expected)


def test_mistakes_without_their_model_or_of_a_derived_answer_are_not_explained_and_a_sentence_says_why(
    short_run, tmp_path, capsys
):
    best, test = short_run.best, short_run.tuned.test
    none, (why,) = evaluate.explained(settings(f"checkpoint='{best}'", "base=nowhere", "device=cpu"), best, test, ROOT)
    assert none == ()
    assert why.startswith("no maps of the mistakes: the model cannot be built (")
    assert why in capsys.readouterr().out
    none, (why,) = evaluate.explained(settings(f"checkpoint='{best}'", "derive=crm"), best, test, ROOT)
    assert none == ()
    assert "answers that crm derives" in why
    assert evaluate.explained(settings(f"checkpoint='{best}'"), best, test, None) == ((), ())


def test_two_runs_are_compared(folder, tmp_path):
    replace(OTHER, split="test").save(tmp_path / "second" / "predictions" / "test")
    page = run(settings(f"compare=[{folder},{tmp_path / 'second'}]", f"output={tmp_path / 'out'}")).page
    assert page == tmp_path / "out" / "comparison.html"
    assert "run against second" in page.read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "give one of checkpoint"),
        (["checkpoint=a.ckpt", "compare=[a,b]"], "give one of checkpoint"),
        (["compare=[a]"], "needs two run folders or more, not 1"),
        (["compare=[a,b]", "report.coverage=1.5"], r"report\.coverage: input should be less than 1"),
        (["compare=[a,b]", "report.bootstrap=0"], r"report\.bootstrap"),
        (["compare=[a,b]", "+report.photos=true"], r"report\.photos: no such setting"),
    ],
)
def test_a_wrong_config_is_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        run(settings(*overrides))
    assert "\n" not in str(caught.value)


def test_the_command_exits_with_2_and_leaves_nothing(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / "evaluate.py"), "compare=[nowhere,elsewhere]", f"paths.root_dir={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: compare: nowhere holds no predictions/test")
    assert result.stderr.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
