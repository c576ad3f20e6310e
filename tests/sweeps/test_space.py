"""The space of a sweep: what it may say, and that a draw is a function of name, seed and trial alone."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from siglip_med.sweeps import Knob, draw
from siglip_med.sweeps.space import words

RATE = Knob(key="optimizer.learning_rate", low=1e-4, high=1e-2, log=True)


@pytest.mark.parametrize(
    "node",
    [
        {},
        {"low": 1},
        {"low": 2, "high": 1},
        {"low": 1, "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"low": 0.5, "high": 2, "integer": True},
        {"low": 0, "high": math.inf},
        {"low": True, "high": 2},
        {"low": "1", "high": 2},
        {"choices": []},
        {"choices": [[1]]},
        {"choices": [1], "low": 0, "high": 1},
        {"choices": [1], "log": True},
        {"low": 0, "high": 1, "lgo": True},
    ],
)
def test_a_knob_that_says_nothing_clear_is_refused(node):
    with pytest.raises(ValidationError):
        Knob.model_validate({"key": "a", **node})


def test_draws_stay_within_their_range_and_cover_it():
    whole = Knob(key="a", low=1, high=3, integer=True)
    assert {draw(whole, "a", 0, trial) for trial in range(60)} == {1, 2, 3}
    assert {draw(Knob(key="a", low=1, high=3, integer=True, log=True), "a", 0, t) for t in range(60)} == {1, 2, 3}
    assert {draw(Knob(key="a", choices=["x", None]), "a", 0, trial) for trial in range(60)} == {"x", None}
    values = np.array([draw(RATE, "rate", 0, trial) for trial in range(400)])
    assert ((values >= 1e-4) & (values <= 1e-2)).all()
    assert 0.4 < (values < 1e-3).mean() < 0.6  # half of a logarithmic range lies below its geometric mean
    even = np.array([draw(Knob(key="a", low=0, high=1), "a", 0, trial) for trial in range(400)])
    assert 0.4 < (even < 0.5).mean() < 0.6


def test_a_draw_depends_on_name_seed_and_trial_alone():
    assert draw(RATE, "rate", 0, 1) == draw(RATE.model_copy(update={"key": {"x": "y"}}), "rate", 0, 1)
    assert len({draw(RATE, name, seed, trial) for name in "ab" for seed in (0, 1) for trial in (0, 1)}) == 8


def test_words_are_written_as_hydra_reads_them():
    space = {
        "rate": RATE,
        "weight": Knob(key={"softmax": "loss.softmax", "tree": "loss.tree"}, choices=[0.5, "a,b", True, None]),
    }
    assert words(space, ["tree"], {"rate": 1e-5, "weight": "a,b"}) == [
        "optimizer.learning_rate=1e-05",
        'loss.tree="a,b"',
    ]
    assert words(space, ["softmax"], {"weight": True}) == ["loss.softmax=true"]
    assert words(space, ["softmax"], {"weight": None}) == ["loss.softmax=null"]
    assert words(space, ["other"], {"weight": 0.5}) == []
