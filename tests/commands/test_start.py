"""Where a run starts from: a checkpoint of its own, another run's heads, or the base."""

import json
import shutil

import numpy as np
import pytest
import torch

from siglip_med.commands.train import run
from siglip_med.core.errors import UserError
from siglip_med.metrics import Predictions
from siglip_med.models import TwoTower
from siglip_med.runs.stored import open_run, predict_run
from tests.models.runs import Malicious
from tests.models.tiny import write_dual
from tests.short_runs import small_settings

STEPS = "trainer.max_steps=2"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    return write_dual(tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def towers(folders):
    return ["model=dual_encoder", *(f"model.{tower}={path}" for tower, path in folders.items())]


@pytest.fixture(scope="module")
def heads(cache, towers, tmp_path_factory):
    """The folder of a run that trained the heads alone."""
    folder = tmp_path_factory.mktemp("heads")
    run(small_settings(cache, folder, *towers, "model/adaptation=frozen", "features=cached", STEPS))
    return folder


def logits(folder, name):
    return Predictions.load(folder / "predictions" / name).logits


def test_a_run_starts_from_anothers_heads_and_calls_the_base_zero_shot(cache, towers, heads, tmp_path):
    still = ["optimizer.learning_rate=1e-12", "optimizer.head_learning_rate=1e-12"]
    still += ["optimizer.scale_learning_rate=1e-12", f"init_from={heads}/checkpoints/best.ckpt"]
    run(small_settings(cache, tmp_path, *towers, *still, STEPS))
    # Rates of next to nothing: what comes out is what it started from.
    np.testing.assert_allclose(logits(tmp_path, "test"), logits(heads, "test"), atol=1e-4)
    assert np.abs(logits(heads, "test") - logits(heads, "zero_shot_test")).max() > 1e-2
    first, second = (json.loads((folder / "metrics.json").read_text())["metrics"] for folder in (heads, tmp_path))
    # Heads are drawn after the adapters, so the two bases differ: only "not the heads it started from" can be said.
    assert second["zero_shot/test/loss"] != pytest.approx(first["tuned/test/loss"], abs=1e-3)


def test_a_start_that_was_trained_on_this_runs_test_images_is_refused(cache, towers, heads, tmp_path):
    start = f"init_from={heads}/checkpoints/best.ckpt"
    with pytest.raises(UserError, match="it was trained on split"):
        run(small_settings(cache, tmp_path / "run", *towers, start, "seed=1", STEPS))
    assert not (tmp_path / "run").exists()


def test_a_start_on_another_base_is_refused(cache, heads, tmp_path):
    with pytest.raises(UserError, match="is another base"):
        run(small_settings(cache, tmp_path / "run", f"init_from={heads}/checkpoints/best.ckpt", STEPS))
    assert not (tmp_path / "run").exists()


def test_a_run_has_one_start(cache, heads, tmp_path):
    best = heads / "checkpoints" / "best.ckpt"
    with pytest.raises(UserError, match="resume and init_from"):
        run(small_settings(cache, tmp_path / "run", f"resume={best}", f"init_from={best}"))
    assert not (tmp_path / "run").exists()


def test_a_run_is_predicted_again_where_its_base_lies_now(heads, folders, tmp_path, cache):
    moved = {tower: str(shutil.copytree(path, tmp_path / tower)) for tower, path in folders.items()}
    again = predict_run(open_run(heads / "checkpoints" / "best.ckpt", base=moved, device="cpu", cache_dir=cache))
    for name, predictions in again.items():
        np.testing.assert_allclose(predictions.logits, logits(heads, name), atol=1e-4)


@pytest.mark.parametrize("key", ["resume", "init_from"])
def test_a_malicious_start_is_refused_and_not_run(key, cache, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "siglip_med": Malicious(trace)}, path)
    with pytest.raises(UserError, match="refused to load"):
        run(small_settings(cache, tmp_path / "run", f"{key}={path}"))
    assert not trace.exists()
    assert not (tmp_path / "run").exists()


def test_predictions_are_made_on_the_trainers_device(cache, tmp_path, monkeypatch):
    """Lightning leaves a model on the CPU after training; here the trainer's device has a number to tell them apart."""
    moves = []
    monkeypatch.setattr(TwoTower, "to", lambda self, device: moves.append(str(device)) or self)
    monkeypatch.setattr("lightning.pytorch.strategies.SingleDeviceStrategy.root_device", torch.device("cpu", 0))
    run(small_settings(cache, tmp_path, STEPS))
    assert moves == ["cpu:0", "cpu:0"], "before zero-shot, and again after training"


def test_a_base_is_judged_without_training(cache, tmp_path):
    result = run(small_settings(cache, tmp_path / "base", "experiment=zero_shot"))
    for split in ("val", "test"):
        np.testing.assert_array_equal(getattr(result.tuned, split).logits, getattr(result.zero_shot, split).logits)
    assert result.trainer.global_step == 0
    again = predict_run(open_run(result.best, device="cpu", cache_dir=cache))
    np.testing.assert_allclose(again["test"].logits, result.tuned.test.logits, atol=1e-5)
    metrics = json.loads((tmp_path / "base" / "metrics.json").read_text())["metrics"]
    assert metrics["tuned/test/mrr"] == metrics["zero_shot/test/mrr"]
    with pytest.raises(UserError, match="fit=false: a run that does not train has nothing to resume"):
        run(small_settings(cache, tmp_path / "more", "experiment=zero_shot", f"resume={tmp_path / 'base'}"))
