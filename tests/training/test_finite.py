"""A loss or gradient that is not finite is explained, and stops the run or costs one step."""

import numpy as np
import pytest
import torch

from siglip_med.commands import train
from siglip_med.core.errors import UserError
from siglip_med.data import dataset
from siglip_med.models import read_checkpoint
from siglip_med.runs import scoring
from siglip_med.training.module import TwoTowerModule
from tests.short_runs import small_settings

WORDS = ["trainer.max_steps=4", "data.batch_size=32", "callbacks.loss_diagnostics=null", "experiment=published"]


def test_a_diverging_run_stops_with_all_that_tells_why(cache, tmp_path):
    rate = ["optimizer.learning_rate=1e30", "trainer.gradient_clip_val=null"]
    with pytest.raises(UserError) as stopped:
        train.run(small_settings(cache, tmp_path, *WORDS, *rate))
    line = str(stopped.value)
    for part in ("at step ", "terms sigmoid ", "coefficients alpha ", ".jpg", "all of them finite", "learning_rate"):
        assert part in line.replace(".png", ".jpg"), part
    assert "\n" not in line


def test_an_image_that_is_not_finite_is_not_blamed_on_the_learning_rate(cache, tmp_path, monkeypatch):
    original = dataset.normalize

    def broken(pixels, image):
        values = original(pixels, image)
        values[0, 0, 0, 0] = np.nan
        return values

    monkeypatch.setattr(dataset, "normalize", broken)
    monkeypatch.setattr(scoring, "predict", lambda components: None)
    with pytest.raises(UserError, match=r"not finite themselves; repair or leave out these images") as stopped:
        train.run(small_settings(cache, tmp_path, *WORDS, "evaluation.probe_images=0"))
    assert "learning_rate" not in str(stopped.value)


def spoil(monkeypatch, steps):
    original = TwoTowerModule.on_after_backward

    def spoiled(self):
        original(self)
        if self.global_step in steps or self.trainer.fit_loop.total_batch_idx in steps:
            next(p for p in self.model.parameters() if p.grad is not None).grad.fill_(float("nan"))

    monkeypatch.setattr(TwoTowerModule, "on_after_backward", spoiled)


def test_a_skipped_step_leaves_the_weights_and_is_said(cache, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, {1})
    train.run(small_settings(cache, tmp_path, *WORDS, "callbacks.finite.policy=skip_step"))
    said = " ".join(capsys.readouterr().err.split())
    assert "the gradient is not finite at step 1" in said
    assert "the step is skipped, 1 so far" in said
    weights = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())


def test_too_many_skipped_steps_in_a_row_stop(cache, tmp_path, monkeypatch):
    spoil(monkeypatch, {0, 1, 2, 3})
    limit = ["callbacks.finite.policy=skip_step", "callbacks.finite.limit=2"]
    with pytest.raises(UserError, match="2 steps in a row were skipped already"):
        train.run(small_settings(cache, tmp_path, *WORDS, *limit))
