"""The whole job, from the command line, on two processes (gloo, CPU): the same run as on one with both shares."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from siglip_med.models import read_checkpoint
from tests.runs import SMALL

REPOSITORY = Path(__file__).resolve().parents[2]
JOBS = {
    "one": ["data.batch_size=16"],
    "two": ["data.batch_size=8", "trainer=ddp", "trainer.devices=2"],
}


@pytest.fixture(scope="module")
def folders(cache, tmp_path_factory):
    root = tmp_path_factory.mktemp("processes")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SIGLIP_MED_CACHE": str(cache)}
    shared = [*SMALL, "experiment=published_final", "trainer.max_steps=4", "trainer.accelerator=cpu"]
    # Each process has dropout of its own, so only without it can the two runs be equal.
    shared += ["model.adaptation.dropout=0", "callbacks.loss_diagnostics=null"]
    for name, own in JOBS.items():
        command = [sys.executable, "train.py", *shared, *own, f"hydra.run.dir={root / name}"]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return {name: root / name for name in JOBS}


def test_both_runs_train_the_same_weights(folders):
    one, two = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in folders.values())
    assert one["global_step"] == two["global_step"] == 4
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, tensor in one["state_dict"].items():
        difference = two["state_dict"][name] - tensor
        # Where a gradient is next to nothing, Adam's first steps make rounding visible.
        # A softmax over keys does not see their bias: its gradient is rounding alone, and Adam makes steps of it.
        limit = 4e-3 if name.endswith("in_proj_bias") else 2e-4
        assert difference.abs().max() < limit, name
        if "lora_B" in name:  # starts at zero: what it holds now is what it learned
            assert difference.norm() < 0.005 * tensor.norm(), name


def test_both_runs_report_the_same_numbers_once(folders):
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in folders.values())
    assert two["metrics"] == pytest.approx(one["metrics"], abs=2e-3, nan_ok=True)
    assert one["metrics"]["tuned/test/loss"] != one["metrics"]["zero_shot/test/loss"]
