"""A trial ends where it is worse than the median of the others at that step, and never at its last."""

from types import SimpleNamespace

import pytest
import torch

from siglip_med.training.pruning import Pruned, Pruning, open_storage

optuna = pytest.importorskip("optuna")


@pytest.fixture
def study(tmp_path):
    """Two finished trials with 0.4 and 0.6 at step 10, and one that runs."""
    storage = open_storage(tmp_path / "tune.journal")
    found = optuna.create_study(storage=storage, study_name="softmax", direction="maximize")
    for value in (0.4, 0.6):
        trial = found.ask()
        trial.report(value, 10)
        found.tell(trial, value)
    found.ask()
    return found


def callback(tmp_path, **settings):
    return Pruning("val/mrr", f"{tmp_path}/tune.journal", "softmax", 2, **({"startup": 2} | settings))


def trainer(value, step=10, max_steps=20):
    return SimpleNamespace(
        sanity_checking=False,
        fast_dev_run=False,
        global_step=step,
        max_steps=max_steps,
        callback_metrics={"val/mrr": torch.tensor(value)},
    )


def test_a_trial_below_the_median_ends_and_says_so(study, tmp_path):
    with pytest.raises(Pruned, match=r"val/mrr was 0\.4900 at step 10"):
        callback(tmp_path).on_validation_end(trainer(0.49), None)
    assert study.trials[2].intermediate_values[10] == pytest.approx(0.49)


@pytest.mark.parametrize(
    ("value", "step", "settings"),
    [
        (0.51, 10, {}),
        (0.1, 11, {}),  # no other trial has this step
        (0.1, 10, {"startup": 3}),
        (0.1, 10, {"warmup_steps": 11}),
    ],
)
def test_a_trial_continues(study, tmp_path, value, step, settings):
    callback(tmp_path, **settings).on_validation_end(trainer(value, step), None)
    assert study.trials[2].intermediate_values[step] == pytest.approx(value)


def test_the_last_step_of_a_trial_is_never_pruned(study, tmp_path):
    callback(tmp_path).on_validation_end(trainer(0.1, 10, max_steps=10), None)
    assert study.trials[2].intermediate_values == {10: pytest.approx(0.1)}


def test_a_trial_that_is_resumed_keeps_its_first_report(study, tmp_path):
    callback(tmp_path).on_validation_end(trainer(0.6), None)
    callback(tmp_path).on_validation_end(trainer(0.9), None)
    assert study.trials[2].intermediate_values == {10: pytest.approx(0.6)}
