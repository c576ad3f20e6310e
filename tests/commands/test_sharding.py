"""`trainer.strategy=fsdp` from the command line, on two processes (gloo, CPU): the same run as on one with both shares.

That of DDP is in test_two_processes.py; what a share is, in tests/training/test_sharding.py.
"""

import json

import numpy as np
import pytest
import torch

from siglip_med.commands import train
from siglip_med.core.errors import UserError
from siglip_med.metrics import Predictions
from siglip_med.models import read_checkpoint
from siglip_med.runs.stored import predict_run
from tests.processes import one_and_two, rows
from tests.short_runs import small_settings

STEPS, STOP = 12, 7


@pytest.fixture(scope="module")
def folders(cache, tmp_path_factory):
    """One process with batches of 16; two with batches of 8, which stop between two validations and go on."""
    return one_and_two(cache, tmp_path_factory.mktemp("shares"), "fsdp", STEPS, STOP)


def test_checkpoints_hold_the_weights_and_moments_of_one_process(folders):
    one, two = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in folders)
    assert one["global_step"] == two["global_step"] == STEPS
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, tensor in one["state_dict"].items():
        assert type(two["state_dict"][name]) is torch.Tensor
        assert (two["state_dict"][name] - tensor).abs().max() < 1e-4, name
        if name.endswith("lora_B.default.weight"):  # starts at zero: what it holds now is what it learned
            assert tensor.abs().max() > 1e-3, name
    (one,), (two,) = one["optimizer_states"], two["optimizer_states"]
    assert one["param_groups"] == two["param_groups"]
    assert one["state"].keys() == two["state"].keys()
    for index, entry in one["state"].items():
        for name, tensor in entry.items():
            assert torch.allclose(two["state"][index][name], tensor, atol=1e-5), (index, name)


def test_both_runs_log_the_same_losses_gradients_and_validations_at_every_step(folders):
    one, two = map(rows, folders)
    assert {step for step, name in one if name == "loss/total"} == set(range(STEPS))
    assert {name for _, name in one} >= {"loss_raw/icd", "grad_norm/total", "parameter_norm/total", "val/mrr"}
    assert len({one[key] for key in one if key[1] == "val/loss"}) == 2, "a second validation must not see old prompts"
    assert one.keys() <= two.keys()
    for (step, name), value in one.items():
        assert two[step, name] == pytest.approx(value, rel=1e-4, abs=1e-4, nan_ok=True), (step, name)


def test_the_checkpoint_gives_the_same_numbers_in_one_process(folders, cache):
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-4, nan_ok=True)
    again = predict_run(folders[1] / "checkpoints" / "best.ckpt", cache, device="cpu")
    for split in ("val", "test"):
        ours = Predictions.load(folders[1] / "predictions" / split)
        assert list(again[split].frame["image"]) == list(ours.frame["image"])
        assert np.allclose(again[split].logits, ours.logits, atol=1e-5)
    assert len(Predictions.load(folders[0] / "predictions" / "val")) % 2, "the processes validate on uneven shards"


def test_other_strategies_that_shard_are_refused_in_one_line(cache, tmp_path):
    for name in ("deepspeed", "deepspeed_stage_3", "fsdp_cpu_offload"):
        with pytest.raises(UserError, match=r"trainer\.strategy"):
            train.run(small_settings(cache, tmp_path, f"trainer.strategy={name}"))
