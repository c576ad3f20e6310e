"""Familiarity by loops and scikit-learn, and what it makes of pictures in which there is no skin."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from siglip_med.commands import predict as command
from siglip_med.core.errors import UserError
from siglip_med.core.ranges import UNFAMILIAR
from siglip_med.data.quality import BLURRED, DARK, FAULTS, fault
from siglip_med.export import export_checkpoint
from siglip_med.inference import load
from siglip_med.inference.cases import by_pattern, by_table
from siglip_med.inference.familiarity import distances
from siglip_med.metrics import Predictions, fit_conformal
from siglip_med.models import Familiarity, Refit, read_checkpoint, read_familiarity, write_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def simulated():
    """A rule with the logits, distances and faults that it was fitted on."""
    rng = np.random.default_rng(0)
    logits, distance = rng.normal(size=(120, 5)), rng.gamma(3.0, size=120)
    found = ["dark"] + [""] * 100 + ["blurred"] * 19
    return Familiarity.fit(logits, distance, found, FAULTS), logits, distance, found


def test_p_values_by_loop(simulated):
    rule, logits, distance, _ = simulated
    rng = np.random.default_rng(1)
    new, far = rng.normal(size=(40, 5)) * 2, rng.gamma(4.0, size=40)

    energies = [-np.log(np.sum(np.exp(one))) for one in logits]
    scales = [(np.quantile(among, 0.5), np.quantile(among, 0.95)) for among in (energies, distance)]

    def strange(row: np.ndarray, d: float) -> float:
        values = (-np.log(np.sum(np.exp(row))), d)
        energy, far = ((value - low) / (high - low) for value, (low, high) in zip(values, scales, strict=True))
        return far + energy / 4

    # one dark photograph of 120 is a fault, nineteen blurred ones are how these data are
    assert rule.faults == ["blank", "dark", "tiny"]
    whole = [strange(logits[row], distance[row]) for row in range(1, 120)]
    for row in range(40):
        as_strange = 1 + sum(one >= strange(new[row], far[row]) for one in whole)
        for wrong, expected in (("", (1 + as_strange) / 121), ("blurred", (1 + as_strange) / 121), ("dark", 0.0)):
            assert rule.p_values(new[[row]], far[[row]], [wrong])[0] == pytest.approx(expected)


def test_what_is_stored_is_plain_bounded_and_comes_back(simulated):
    rule = simulated[0]
    again = Familiarity.model_validate(json.loads(json.dumps(rule.model_dump())))
    assert again == rule
    rng = np.random.default_rng(2)
    many = Familiarity.fit(rng.normal(size=(9000, 3)), None, [""] * 9000, FAULTS)
    assert len(many.scores) == 5000
    new = rng.normal(size=(4000, 3))
    p = many.p_values(new, None, [""] * 4000)
    assert (p < UNFAMILIAR).mean() == pytest.approx(0.05, abs=0.01)
    with pytest.raises(ValueError, match="scores"):
        Familiarity.model_validate(rule.model_dump() | {"scores": [float("nan")]})


def test_distance_is_that_of_scikit_learns_nearest_neighbour(short_run):
    refit = load(short_run.best, device="cpu").kept
    features = np.random.default_rng(0).normal(size=(30, len(refit.mean))).astype(np.float32)
    x = (features - refit.mean.numpy()) / refit.scale.numpy()
    expected = NearestNeighbors(n_neighbors=1).fit(refit.centers.numpy()).kneighbors(x)[0][:, 0]
    np.testing.assert_allclose(distances(refit, features), expected / np.sqrt(x.shape[1]), rtol=1e-4)
    assert distances(None, features) is None


def test_faults_are_those_that_check_looks_for():
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    smooth = np.full((64, 64, 3), 120, dtype=np.uint8) + np.linspace(0, 60, 64, dtype=np.uint8)[:, None, None]
    cases = {"": sharp, "blank": np.zeros_like(sharp), "dark": sharp // 8, "blurred": smooth}
    assert {name: fault(square, (64, 64)) for name, square in cases.items()} == {name: name for name in cases}
    assert (fault(sharp, (31, 400)), fault(sharp, (32, 400))) == ("tiny", "")
    checked = (ROOT / "conf" / "check.yaml").read_text(encoding="utf-8")
    assert f"dark: {DARK:g} " in checked
    assert f"blurred: {BLURRED} " in checked


def test_predictions_of_a_run_say_how_familiar_their_images_are(short_run):
    run, rule = short_run.folder, read_familiarity(read_checkpoint(short_run.best)["siglip_med"])
    for part in ("val", "test"):
        stored = Predictions.load(run / "predictions" / part)
        classifier, table = load(short_run.best, device="cpu"), short_run.components.data.table
        found = classifier.predict([table.root / image for image in stored.frame["image"]], batch_size=64)
        p = [one.familiarity for one in found.differentials]
        np.testing.assert_allclose(p, stored.familiarity, atol=1.5 / (1 + len(rule.scores)))
        sets = fit_conformal(stored, 0.8).sets(stored)
        assert sets[stored.unfamiliar].all()
        assert not sets.all()
    assert "familiarity" in json.loads((run / "metrics.json").read_text())


@pytest.fixture
def drawing(short_run):
    """One synthetic drawing, the model's own kind."""
    table = short_run.components.data.table
    return table.root / table.frame["image"].iloc[7]


@pytest.fixture
def pictures(tmp_path, drawing):
    """Two drawings of skin, a black picture and noise, as files of two cases."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    skin = Image.open(drawing).convert("RGB")
    skin.save(folder / "a_1.png")
    skin.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "a_2.png")
    Image.new("RGB", (90, 90)).save(folder / "a_3.png")
    Image.new("RGB", (90, 90)).save(folder / "b_1.png")
    Image.fromarray(rng.integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(folder / "b_2.png")
    return folder


def predicted(checkpoint, images, output, **words):
    given = {"top_k": 3, "batch_size": 2, "device": "cpu", "base": None}
    return command.run(
        command.Settings(checkpoint=str(checkpoint), images=str(images), output_dir=str(output), **given, **words)
    )


def test_a_black_picture_gets_no_confidence_and_a_case_leaves_it_out(short_run, pictures, tmp_path, capsys):
    exported = export_checkpoint(short_run.best, "merged", tmp_path / "merged")
    tables = []
    for source in (short_run.best, exported):
        result = predicted(source, pictures, tmp_path / "out", case_pattern=r"(\w+)_")
        table = result.predictions.frame()
        black = table[table["image"].str.endswith("_3.png") | table["image"].str.endswith("b_1.png")]
        assert (len(black), set(black["unfamiliar"])) == (2, {"blank"})
        assert black[["rank", "condition", "confidence", "logit"]].isna().all(axis=None)
        assert (black["familiarity"] == 0).all()
        tables.append(table)
        one = result.predictions.cases[0]
        skin = [item for item in result.predictions.differentials[:2] if not item.unfamiliar]
        assert [case.case for case in result.predictions.cases] == ["a", "b"]
        logits = {}
        for item in classifier_logits(source, [item.image for item in skin]):
            for candidate in item.candidates:
                logits.setdefault(candidate.condition, []).append(candidate.logit)
        if skin:
            for candidate in one.candidates:
                assert candidate.logit == pytest.approx(np.mean(logits[candidate.condition]), abs=1e-3)
        text = (tmp_path / "out" / "predictions.csv").read_text()
        assert f"{pictures / 'a_3.png'},,,,,,0.0,blank,a" in text
        command.show(result)
        shown = capsys.readouterr().out
        assert "unfamiliar: blank" in shown
        assert "2 blank" in shown
    assert (tables[0]["unfamiliar"] == tables[1]["unfamiliar"]).all()


def classifier_logits(source, images):
    return load(source, device="cpu").predict(images, top_k=1000).differentials


def test_a_checkpoint_from_before_still_predicts_and_says_so_in_one_line(short_run, pictures, tmp_path, capsys):
    content = read_checkpoint(short_run.best)
    del content["siglip_med"]["familiarity"]
    write_checkpoint(content, tmp_path / "before.ckpt")
    result = predicted(tmp_path / "before.ckpt", pictures, tmp_path / "out")
    assert [item.unfamiliar for item in result.predictions.differentials] == ["", "", "blank", "blank", ""]
    command.show(result)
    assert "the checkpoint is from before familiarity" in capsys.readouterr().out


def test_cases_by_pattern_or_table_or_one_line(tmp_path):
    files = [tmp_path / "x" / "p1_a.png", tmp_path / "x" / "p1_b.png", tmp_path / "y" / "p2_a.png"]
    assert list(by_pattern(files, r"(p\d)_").values()) == ["p1", "p1", "p2"]
    table = tmp_path / "cases.csv"
    table.write_text("image,patient\nx/p1_a.png,A\np1_b.png,A\ny/p2_a.png,B\n")
    assert list(by_table(files, table, "patient").values()) == ["A", "A", "B"]
    for call, message in (
        (lambda: by_pattern(files, r"p(1)_"), r"1 of 3 photographs have names that do not match case_pattern"),
        (lambda: by_pattern(files, r"p1_"), r"has 0 groups; give it one"),
        (lambda: by_pattern(files, r"(p1"), r"is no pattern"),
        (lambda: by_table([*files, tmp_path / "z.png"], table, "patient"), r"1 of 4 photographs are not in"),
        (lambda: by_table([*files, tmp_path / "p1_b.png"], table, "patient"), r"'p1_b\.png' fits 2 files"),
        (lambda: by_table(files, table, "case"), r"no column 'case'"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_without_a_refit_energy_alone_tells_and_prompts_do_not_change_it(short_run, drawing):
    by_refit, by_prompts = (load(short_run.best, device="cpu", scores=scores) for scores in ("refit", "prompts"))
    p = [one.predict(drawing).differentials[0].familiarity for one in (by_refit, by_prompts)]
    assert p[0] == p[1] is not None
    rule = by_refit.rule
    alone = Familiarity.fit(np.random.default_rng(0).normal(size=(50, 66)), None, [""] * 50, FAULTS)
    payload = dict(by_refit.payload) | {"familiarity": alone.model_dump()}
    bare = replace(by_prompts, payload=payload, kept=None)
    features = torch.zeros(1, len(by_refit.kept.mean))
    logits = bare.logits(features).detach().numpy()
    assert bare.familiarity(features, [""]) == pytest.approx(alone.p_values(logits, None, [""]).tolist())
    assert rule.distance is not None
    assert isinstance(by_prompts.kept, Refit)
