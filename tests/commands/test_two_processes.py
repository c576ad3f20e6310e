"""The whole job, from the command line, on two processes (gloo, CPU): the same run as on one with both shares."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from siglip_med.commands import train
from siglip_med.metrics import Predictions
from siglip_med.models import read_checkpoint
from tests.runs import SMALL, small_settings

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS, STOP = 20, 12
JOB = [
    "experiment=published_final",
    "data/sampling=oversample",
    "data.sampling.minimum=8",
    "trainer.accelerator=cpu",
    "trainer.val_check_interval=6",
    "trainer.check_val_every_n_epoch=null",
    "trainer.log_every_n_steps=1",
    "logger=csv",
    # Each process has dropout of its own, so only without it can the two runs be equal.
    "model.adaptation.dropout=0",
    # So that a run may be given its steps in two goes: nothing depends on how many it will have.
    "optimizer.warmup=0",
    "optimizer.final=1",
    "schedule.unit=step",
    "++schedule.knots={alpha: {20: 0.9}, beta: {0: 0, 10: 1}, gamma: {5: 0, 20: 1}, delta: {0: 0.5}}",
    # A softmax does not see the bias of its keys: the gradient of that bias is rounding alone, some 1e-9, and with
    # Adam's default eps of 1e-8 the weights walk on it by a share of the rate. Above it only gradients count.
    "optimizer.eps=1e-4",
    "callbacks.loss_diagnostics=null",
    "evaluation.probe_images=0",
]


@pytest.fixture(scope="module")
def folders(cache, tmp_path_factory):
    """One process with batches of 16; two with batches of 8, which stop inside an epoch and go on by torchrun."""
    root = tmp_path_factory.mktemp("processes")
    train.run(small_settings(cache, root / "one", *JOB, f"trainer.max_steps={STEPS}"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SIGLIP_MED_CACHE": str(cache)}
    two = [*SMALL, *JOB, "data.batch_size=8", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    place = f"hydra.run.dir={root / 'two'}"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for words in (
        ["train.py", *two, place, f"trainer.max_steps={STOP}"],
        [*torchrun, "train.py", f"resume={root / 'two'}", f"trainer.max_steps={STEPS}"],
    ):
        command = [sys.executable, *words]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return root / "one", root / "two"


def rows(folder):
    """Step and name -> value, of everything that the run logged."""
    (path,) = folder.rglob("metrics.csv")
    with path.open(newline="") as file:
        return {
            (int(row["step"]), name): float(value)
            for row in csv.DictReader(file)
            for name, value in row.items()
            if value and name not in ("step", "epoch") and not name.startswith("perf/")
        }


def test_both_runs_train_the_same_weights(folders):
    one, two = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in folders)
    assert one["global_step"] == two["global_step"] == STEPS
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, tensor in one["state_dict"].items():
        apart = (two["state_dict"][name] - tensor).abs()
        if name.endswith("mlp.fc1.lora_B.default.weight"):
            # The toy model has ReLU. Where a hidden unit's input is next to 0, rounding decides whether it fires, and
            # with it the whole gradient of its row: some of these rows go their own way, and not far.
            units = apart.amax(dim=1)
            assert (units > 2e-5).sum() <= 4 < len(units), name
            assert units.max() < 1e-3, name
        else:
            assert apart.max() < 2e-5, name
        if name.endswith("lora_B.default.weight"):  # starts at zero: what it holds now is what it learned
            assert tensor.abs().max() > 1e-3, name


def test_both_runs_log_the_same_losses_gradients_and_validations_at_every_step(folders):
    one, two = map(rows, folders)
    assert {step for step, name in one if name == "loss/total"} == set(range(STEPS))
    assert {name for _, name in one} >= {
        "loss_raw/icd",
        "loss_raw/wasserstein",
        "grad_norm/total",
        "val/loss",
        "val/mrr",
    }
    assert one.keys() <= two.keys()
    for (step, name), value in one.items():
        limit = 1e-4 if name.startswith("val/") else 1e-5  # a rank may change by one where two scores are equal
        assert two[step, name] == pytest.approx(value, rel=limit, abs=limit, nan_ok=True), (step, name)


def test_both_runs_report_the_same_numbers_and_each_image_once(folders):
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-4, nan_ok=True)
    assert one["metrics"]["tuned/test/loss"] != one["metrics"]["zero_shot/test/loss"]
    for split in ("val", "test"):
        scores = [Predictions.load(folder / "predictions" / split) for folder in folders]
        images = [list(one.frame["image"]) for one in scores]
        assert len(set(images[1])) == len(images[1])
        assert images[1] == images[0]
        assert np.allclose(scores[1].logits, scores[0].logits, atol=1e-4)
    assert len(Predictions.load(folders[0] / "predictions" / "val")) % 2, "the processes validate on uneven shards"
