"""Answers that are derived from a run without training."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from siglip_med.commands import evaluate
from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from siglip_med.metrics import Predictions, crm, headline_metrics
from siglip_med.models import load_model, read_checkpoint
from siglip_med.runs import derived
from siglip_med.runs.stored import open_run, predict_run
from tests.short_runs import compose_config


@pytest.fixture
def run(short_run, tmp_path):
    return Path(shutil.copytree(short_run.folder, tmp_path / "run"))


def derive(run, cache, *words):
    fast = ["report.bootstrap=20", "report.map_images=20", "paths.output_dir=unused", f"paths.cache_dir={cache}"]
    words = [*fast, f"checkpoint={run}/checkpoints/best.ckpt", "device=cpu", *words]
    return evaluate.run(typed(compose_config(*words, name="evaluate"), evaluate.Settings)).page


def saved(folder, name):
    return Predictions.load(folder / "predictions" / name)


@pytest.mark.parametrize(("share", "name"), [(0.0, "zero_shot_test"), (1.0, "prompts_test")])
def test_the_ends_of_the_line_are_the_base_and_the_run(run, cache, monkeypatch, share, name):
    monkeypatch.setattr(derived, "SHARES", (share,))
    derive(run, cache, "derive=interpolation")
    np.testing.assert_allclose(saved(run / "interpolation", "prompts_test").logits, saved(run, name).logits, atol=1e-4)
    if share == 1.0:  # the refit of the same weights
        np.testing.assert_allclose(saved(run / "interpolation", "test").logits, saved(run, "test").logits, atol=1e-3)


def test_validation_chooses_the_share_and_the_checkpoint_holds_it(run, cache, capsys):
    page = derive(run, cache, "derive=interpolation")
    folder = run / "interpolation"
    assert page.is_relative_to(folder)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "0." in line and "│" in line]
    table = {float(cells[1]): float(cells[3]) for cells in lines if len(cells) > 4 and cells[2] == "│"}
    assert len(table) > 5
    chosen = max(table, key=lambda share: (table[share], share))
    assert [cells[-1] for cells in lines if float(cells[1]) == chosen and "chosen" in " ".join(cells)]
    payload = read_checkpoint(folder / "checkpoints" / "best.ckpt")["siglip_med"]
    assert payload["metrics"]["mrr"]["estimate"] == pytest.approx(headline_metrics(saved(folder, "test"))["mrr"])
    model, _ = load_model(folder / "checkpoints" / "best.ckpt")
    again = predict_run(open_run(folder / "checkpoints" / "best.ckpt", device="cpu", cache_dir=cache))
    np.testing.assert_allclose(again["test"].logits, saved(folder, "test").logits, atol=1e-4)
    assert not model.training


def test_expected_distance_ranks_and_the_run_stays(run, cache):
    before = saved(run, "test").logits.copy()
    assert derive(run, cache, "derive=crm").is_relative_to(run / "crm")
    np.testing.assert_array_equal(saved(run / "crm", "test").logits, crm(saved(run, "test")).logits)
    np.testing.assert_array_equal(saved(run, "test").logits, before)
    assert not (run / "crm" / "checkpoints").exists()


def test_a_dual_encoder_has_no_base_to_mix_in(run, cache, monkeypatch):
    monkeypatch.setattr(derived, "DualEncoder", object)
    with pytest.raises(UserError, match="start from nothing"):
        derive(run, cache, "derive=interpolation")
    assert not (run / "interpolation").exists()
