"""A trial ends where it is worse than the median of the others at that step, and never at its last."""

import json
from types import SimpleNamespace

import pytest
import torch

from siglip_med.core.errors import UserError
from siglip_med.training.pruning import Pruned, Pruning

optuna = pytest.importorskip("optuna")


@pytest.fixture
def study(tmp_path):
    """Two finished trials with 0.4 and 0.6 at step 10, and one that runs."""
    found = optuna.create_study(storage=f"sqlite:///{tmp_path}/tune.db", study_name="softmax", direction="maximize")
    for value in (0.4, 0.6):
        trial = found.ask()
        trial.report(value, 10)
        found.tell(trial, value)
    found.ask()
    return found


def callback(tmp_path, **settings):
    given = {"startup": 2, "store": f"{tmp_path}/tune.db", "study": "softmax", "trial": 2} | settings
    return Pruning("val/mrr", "max", **given)


def trainer(tmp_path, value, step=10, max_steps=20):
    return SimpleNamespace(
        sanity_checking=False,
        fast_dev_run=False,
        global_step=step,
        max_steps=max_steps,
        is_global_zero=True,
        callback_metrics={"val/mrr": torch.tensor(value)},
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision),
        default_root_dir=str(tmp_path),
    )


def test_a_trial_below_the_median_ends_and_says_so(study, tmp_path):
    with pytest.raises(Pruned, match=r"val/mrr was 0\.4900 at step 10"):
        callback(tmp_path).on_validation_end(trainer(tmp_path, 0.49), None)
    assert json.loads((tmp_path / "pruned.json").read_text())["step"] == 10
    assert study.trials[2].intermediate_values[10] == pytest.approx(0.49)


@pytest.mark.parametrize(
    ("value", "step", "settings"),
    [
        (0.51, 10, {}),
        (0.1, 11, {}),  # no other trial has this step
        (0.1, 20, {}),  # its last step: there is nothing to save
        (0.1, 10, {"startup": 3}),
        (0.1, 10, {"warmup_steps": 11}),
    ],
)
def test_a_trial_goes_on(study, tmp_path, value, step, settings):
    callback(tmp_path, **settings).on_validation_end(trainer(tmp_path, value, step), None)
    assert study.trials[2].intermediate_values[step] == pytest.approx(value)


def test_a_run_that_goes_on_from_its_checkpoint_keeps_its_first_report(study, tmp_path):
    callback(tmp_path).on_validation_end(trainer(tmp_path, 0.6), None)
    callback(tmp_path).on_validation_end(trainer(tmp_path, 0.9), None)
    assert study.trials[2].intermediate_values == {10: pytest.approx(0.6)}


def test_outside_of_a_sweep_it_is_refused(tmp_path):
    with pytest.raises(UserError, match="no trial of a sweep"):
        callback(tmp_path, store=None).on_validation_end(trainer(tmp_path, 0.9), None)
