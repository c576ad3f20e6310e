"""Several runs as one: a report of their averaged predictions, and photographs that their models answer together."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from siglip_med.commands import evaluate, predict
from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from siglip_med.export import export_checkpoint
from siglip_med.metrics import Predictions, fit_calibration, headline_metrics
from siglip_med.runs.ensembles import join_runs, load_ensemble
from tests.models import runs
from tests.report.synthetic_run import synthetic_predictions
from tests.short_runs import compose_config


@pytest.fixture
def folders(tmp_path):
    """Three runs of one split."""
    found = []
    for skill in (2.0, 1.0, 0.5):
        found.append(tmp_path / f"run{skill}")
        for split in ("val", "test"):
            predictions = synthetic_predictions(images=60, skill=skill, seed=len(split), split=split)
            predictions.save(found[-1] / "predictions" / split)
    synthetic_predictions(images=60, skill=0, seed=4).save(found[0] / "predictions" / "zero_shot_test")
    return found


def report(folders, *words):
    fast = ("report.bootstrap=20", "report.map_images=20", "paths.output_dir=unused")
    given = f"ensemble=[{','.join(map(str, folders))}]"
    return evaluate.run(typed(compose_config(*fast, given, *words, name="evaluate"), evaluate.Settings))


@pytest.mark.parametrize("average", ["mean_logit", "mean_probability"])
def test_one_report_of_runs_calibrated_averaged_and_calibrated_again(folders, tmp_path, average, capsys):
    shutil.copytree(folders[0] / "predictions" / "zero_shot_test", folders[0] / "predictions" / "prompts_test")
    result = report(folders, f"output={tmp_path / 'out'}", f"average={average}")
    z = {"val": [], "test": []}
    for folder in folders:
        own = fit_calibration(Predictions.load(folder / "predictions" / "val"))
        for split, logits in z.items():
            raw = Predictions.load(folder / "predictions" / split).logits.astype(float)
            logits.append(raw / own.temperature + own.bias)
    mean = {split: np.mean(of, axis=0) for split, of in z.items()}
    if average == "mean_probability":
        p = {split: np.mean([1 / (1 + np.exp(-one)) for one in of], axis=0) for split, of in z.items()}
        mean = {split: np.log(of / (1 - of)) for split, of in p.items()}
    val = Predictions.load(folders[0] / "predictions" / "val").with_logits(mean["val"])
    again = fit_calibration(val)
    saved = Predictions.load(tmp_path / "out" / "predictions" / "test")
    np.testing.assert_allclose(saved.logits, mean["test"] / again.temperature + again.bias, atol=1e-4)
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["headline"]["intervals"]["mrr"]["estimate"] == pytest.approx(headline_metrics(saved)["mrr"])
    differences = json.loads((tmp_path / "out" / "comparison.json").read_text())["differences"]
    assert [*differences] == [folder.name for folder in folders]
    evaluate.show(result)
    said = capsys.readouterr().out
    assert f"an ensemble of 3 models, {average} of their calibrated scores: {folders[0]}, " in said
    assert (
        f"calibrated on the averaged predictions of 60 validation images (temperature {again.temperature:.3f}" in said
    )
    assert f"baselines: those of {folders[0]}" in said
    assert "answer alike" not in said
    page = (tmp_path / "out" / "report.md").read_text()
    assert f"- baselines: those of {folders[0]}" in page.replace("\\", "")
    assert "prompts" not in page  # those of one member say nothing of all


def test_runs_that_do_not_belong_together_are_one_line_and_nothing_is_written(folders, tmp_path):
    def refused(match, given, *words):
        with pytest.raises(UserError, match=match):
            report(given, f"output={tmp_path / 'out'}", *words)
        assert not (tmp_path / "out").exists()

    other = synthetic_predictions(images=50, seed=9)
    for split in ("val", "test"):
        other.save(tmp_path / "other" / "predictions" / split)
    refused(r"^ensemble: .*other and .*run2.0: the two runs .* different images", [*folders, tmp_path / "other"])
    refused("^ensemble needs two runs or more, not 1", folders[:1])
    refused(r"run2.0 is given twice", [folders[0], folders[1], folders[0]])
    shutil.rmtree(folders[1] / "predictions" / "val")
    refused(r"run1.0 holds no predictions/val and test", folders)
    refused("leave checkpoint, compare, external", folders[::2], "recompute=true")
    refused("checklist=true is filled in of one run", folders[::2], "checklist=true")
    for word in ("average=mean_probability", "scores=both"):
        alone = typed(compose_config(word, "paths.output_dir=unused", name="evaluate"), evaluate.Settings)
        with pytest.raises(UserError, match=rf"^{word.partition('=')[0]}=… says how an ensemble answers"):
            evaluate.run(alone)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three checkpoints of one base: two calibrated differently, one not; and photographs, one of them torn."""
    root = tmp_path_factory.mktemp("members")
    node, random = runs.model_node("siglip", root / "base"), np.random.default_rng(1)
    for number, calibration in enumerate(
        [{"temperature": 2.0, "bias": 0.75}, {"temperature": 0.5, "bias": -1.0}, None]
    ):
        model = runs.train(runs.build(node), steps=number + 1)
        runs.save(model, node, root / f"{number}.ckpt", calibration=calibration)
    (root / "photographs").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(root / "photographs" / name)
    (root / "photographs" / "torn.png").write_bytes(b"no image")
    return root


def predicted(place, **given):
    words = {"checkpoint": None, "top_k": 3, "batch_size": 4, "device": "cpu", "base": None}
    return predict.run(predict.Settings(**words | given, output_dir=str(place)))


def scores(result, key="logit"):
    return [{one.condition: getattr(one, key) for one in item.candidates} for item in result.predictions.differentials]


def test_photographs_get_the_mean_of_the_models_calibrated_scores(models, tmp_path, capsys):
    images = str(models / "photographs")
    names, by = [str(models / f"{n}.ckpt") for n in (0, 1)], ((2.0, 0.75), (0.5, -1.0))
    single = [scores(predicted(tmp_path, checkpoint=name, images=images)) for name in names]
    result = predicted(tmp_path, ensemble=names, images=images)
    assert len(result.predictions.differentials) == 2
    for row, found in enumerate(scores(result)):
        for name, logit in found.items():
            z = [one[row][name] / temperature + bias for one, (temperature, bias) in zip(single, by, strict=True)]
            assert logit == pytest.approx(np.mean(z), abs=1e-5)
            assert scores(result, "confidence")[row][name] == pytest.approx(1 / (1 + np.exp(-np.mean(z))), abs=1e-6)
    assert [item.image.rpartition("/")[2] for item in result.predictions.differentials] == ["a.png", "b.png"]
    assert len(result.predictions.unreadable) == 1
    predict.show(result)
    said = capsys.readouterr().out
    assert f"an ensemble of 2 models, mean_logit of their calibrated scores: {names[0]}, {names[1]}" in said
    assert f"averaged, and not calibrated again: {names[0]} has no validation predictions" in said
    assert json.loads(result.tree.read_text())["notes"] == list(result.predictions.notes)
    merged = export_checkpoint(names[1], "merged", tmp_path / "merged")
    mixed = predicted(tmp_path, ensemble=[names[0], str(merged)], images=images)
    for ours, theirs in zip(scores(mixed), scores(result), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
    odds = predicted(tmp_path, ensemble=names, images=images, average="mean_probability")
    assert scores(odds) != scores(result)


def test_a_model_without_calibration_leaves_an_order(models, tmp_path, capsys):
    names = [str(models / f"{n}.ckpt") for n in (0, 2)]
    result = predicted(tmp_path, ensemble=names, images=str(models / "photographs"))
    predict.show(result)
    assert not result.predictions.calibrated
    assert "read the scores as an order" in capsys.readouterr().out


def test_models_that_rank_other_conditions_and_wrong_settings_are_one_line(models, tmp_path):
    images, names = str(models / "photographs"), [str(models / f"{n}.ckpt") for n in (0, 1)]

    def refused(match, **given):
        with pytest.raises(UserError, match=match):
            predicted(tmp_path, images=images, **given)

    node = runs.model_node("siglip", tmp_path / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "TEXTS", runs.TEXTS[::-1])
        original = runs.checkpoint_payload
        codes = ("L30.9", "C43.0", "L50.9")
        patch.setattr(runs, "checkpoint_payload", lambda *a, **k: original(*a, **k | {"codes": codes}))
        other = runs.save(runs.build(node), node, tmp_path / "other.ckpt")
    refused(
        r"other\.ckpt and .*0\.ckpt: their codes differ; the first: \('C43.0', 'C43.9'\)",
        ensemble=[names[0], str(other)],
    )
    refused("give either checkpoint=.* or ensemble=", checkpoint=names[0], ensemble=names)
    refused("give either checkpoint=.* or ensemble=")
    refused("ensemble needs two runs or more, not 1", ensemble=names[:1])
    refused("is given twice", ensemble=[names[0], names[0]])
    refused("explain=true shows where one model looks", ensemble=names, explain=True)
    refused("^average=… says how", checkpoint=names[0], average="mean_probability")


def test_run_folders_bring_the_validation_that_confidences_are_calibrated_on(short_run, tmp_path):
    copy = tmp_path / "copy"
    with pytest.raises(UserError, match=r"best\.ckpt is given twice"):
        load_ensemble([short_run.folder, short_run.best])
    shutil.copytree(short_run.folder, copy)
    test = short_run.tuned.test
    root = short_run.components.data.table.root
    images = [str(root / image) for image in test.frame["image"][:6]]
    model = load_ensemble([short_run.folder, copy], device="cpu")
    assert model.notes[1].startswith(
        f"confidences: calibrated on the averaged predictions of {len(short_run.tuned.val)} "
    )
    found = model.predict(images, top_k=len(test.conditions)).differentials
    again = fit_calibration(short_run.tuned.val).apply(test)
    own = fit_calibration(short_run.tuned.val)
    for row, item in enumerate(found):
        for one in item.candidates:
            column = test.conditions.index(one.condition)
            z = again.logits[row, column]
            assert one.logit == pytest.approx(test.logits[row, column], abs=2e-3)
            assert one.confidence == pytest.approx(1 / (1 + np.exp(-z)), abs=1e-3)
        assert item.familiarity == pytest.approx(test.familiarity[row], abs=0.02)
    assert own.temperature == pytest.approx(1, abs=0.02)  # a refit's calibration is inside it
    joined, notes = join_runs([short_run.folder, copy], "mean_logit")
    assert notes[-1] == model.notes[-1]
    assert notes[-1].startswith("the members answer alike, so their mean is one of them")
    np.testing.assert_allclose(joined["test"].logits, again.logits, atol=1e-3)
    changed = replace(short_run.tuned.val, frame=short_run.tuned.val.frame.assign(image="x"))
    changed.save(copy / "predictions" / "val")
    line = load_ensemble([short_run.folder, copy], device="cpu").notes[1]
    assert line.startswith("confidences: averaged, and not calibrated again (ensemble: ")
    shutil.rmtree(copy / "predictions" / "prompts_val")
    prompts = load_ensemble([short_run.folder, copy], device="cpu", scores="prompts").notes[1]
    assert "has no validation predictions of these scores beside it" in prompts


def test_refit_and_prompts_of_a_run_are_two_members_in_one_pass(short_run, tmp_path, monkeypatch):
    val, test = (Predictions.load(short_run.folder / "predictions" / f"prompts_{split}") for split in ("val", "test"))
    by_prompts, by_refit = fit_calibration(val), fit_calibration(short_run.tuned.val)
    mean = {
        split: (by_refit.apply(refit).logits + by_prompts.apply(prompts).logits) / 2
        for split, refit, prompts in (("val", short_run.tuned.val, val), ("test", short_run.tuned.test, test))
    }
    again = fit_calibration(val.with_logits(mean["val"]))
    joined, notes = join_runs([short_run.folder], "mean_logit", "both")
    np.testing.assert_allclose(joined["test"].logits, mean["test"] / again.temperature + again.bias, atol=1e-4)
    assert f"{short_run.folder} (refit), {short_run.folder} (prompts)" in notes[0]
    root, count, passes = short_run.components.data.table.root, len(test.conditions), []
    images = [str(root / image) for image in test.frame["image"][:5]]
    model = load_ensemble([short_run.folder], device="cpu", scores="both")
    monkeypatch.setattr(model.members[0].model, "pooled_features", passed(model.members[0].model, passes))
    found = model.predict(images, top_k=count).differentials
    assert len(passes) == 1
    for row, item in enumerate(found):
        for one in item.candidates:
            assert one.logit == pytest.approx(mean["test"][row, test.conditions.index(one.condition)], abs=5e-3)
    assert model.notes[1].startswith("confidences: calibrated on the averaged predictions of ")
    result = predicted(tmp_path, checkpoint=str(short_run.best), images=images, scores="both", top_k=count)
    for theirs, item in zip(scores(result), found, strict=True):
        assert theirs == pytest.approx({one.condition: one.logit for one in item.candidates}, abs=1e-4)
    one, _ = join_runs([short_run.folder, copied(short_run, tmp_path)], "mean_logit", "prompts")
    np.testing.assert_allclose(one["test"].logits, fit_calibration(val).apply(test).logits, atol=1e-3)


def passed(model, passes):
    """The pass of a tower, counted."""
    original = model.pooled_features
    return lambda images: passes.append(1) or original(images)


def copied(run, tmp_path):
    """A run folder like another's, of an earlier version in what it lacks."""
    copy = tmp_path / "copied"
    shutil.copytree(run.folder, copy)
    return copy


def test_a_run_without_what_is_asked_for_is_one_line(short_run, folders, tmp_path):
    copy = copied(short_run, tmp_path)
    shutil.rmtree(copy / "predictions" / "prompts_val")
    with pytest.raises(
        UserError, match=r"holds no predictions/prompts_val: it is of an earlier version; train it again"
    ):
        join_runs([copy], "mean_logit", "both")
    with pytest.raises(UserError, match=r"run2\.0 holds no answers of a refit; train it again"):
        join_runs(folders, "mean_logit", "both")
    assert join_runs(folders, "mean_logit", "prompts")[0].keys() >= {"val", "test"}
