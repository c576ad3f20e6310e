"""``siglip-med-tune``: every loss the same trials, on validation; cut and given again, it ends with the same table."""

import csv
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from siglip_med.commands import tune
from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from siglip_med.training.pruning import Pruned
from tests.short_runs import compose_config

optuna = pytest.importorskip("optuna")
BOTH = ["experiments=[baseline,softmax]", "trials=3"]
ONE = ["experiments=[baseline]", "trials=3"]


class Cut(BaseException):
    """Ends the process in the middle of a trial, as SIGKILL does."""


class Tuner:
    """Tunes with trials that train nothing, and keeps the settings of those that were begun."""

    def __init__(self, monkeypatch, folder):
        self.folder, self.done, self.answer = folder, [], reached
        monkeypatch.setattr(tune.train, "run", self._train)

    def _train(self, settings):
        self.done.append(settings)
        return SimpleNamespace(objective=self.answer(settings))

    def run(self, *words, folder=None):
        """The rows of the table."""
        return self.resume(compose_config(f"folder={folder or self.folder}", *words, name="tune"))

    def resume(self, config):
        """The same of a config that is composed already."""
        settings = typed(config, tune.Settings)
        tune.show(tune.run(settings))
        with (Path(settings.folder) / "tune.csv").open() as file:
            return list(csv.DictReader(file))


@pytest.fixture
def tuner(monkeypatch, tmp_path):
    return Tuner(monkeypatch, tmp_path / "study")


def term(settings):
    return next(iter(settings.loss["terms"].values()))


def rate(settings):
    return settings.optimizer["learning_rate"]


def reached(settings):
    """Best at a rate of 0.002; a function of the settings alone."""
    return 0.9 - abs(rate(settings) - 0.002) - 0.01 * term(settings)["scale"] - 0.001 * len(settings.name)


def test_every_loss_gets_the_same_number_of_trials_and_the_same_draws(tuner, capsys):
    # the first experiment lacks a knob that the second has: the draws of the others are the same all the same
    table = tuner.run(*BOTH, "~space.scale.key.baseline")
    of = {name: [done for done in tuner.done if done.name == name] for name in ("baseline", "softmax")}
    assert [len(trials) for trials in of.values()] == [3, 3]
    for read in (
        rate,
        lambda c: c.model["adaptation"]["dropout"],
        lambda c: c.trainer["max_steps"],
        lambda c: term(c)["term"]["adjustment"],
    ):
        first, second = ([read(settings) for settings in trials] for trials in of.values())
        assert first == second
        assert len(set(first[1:])) > 1
    for row in table:
        trials = of[row["experiment"]]
        values = [reached(settings) for settings in trials]
        assert row["trials"] == "3"
        assert float(row["with its defaults"]) == round(values[0], 4)
        assert float(row["with the chosen"]) == round(max(values), 4)
        assert f"optimizer.learning_rate={rate(trials[values.index(max(values))])}" in row["chosen settings"]
    printed = capsys.readouterr()
    assert "python train.py -m experiment=softmax optimizer.learning_rate=" in printed.out
    assert "/test/" not in printed.out
    assert "baseline: not tuned, for it has no key for it: scale" in printed.err
    assert all(settings.optimized_metric == "tuned/val/mrr" for settings in tuner.done)


def test_a_study_that_was_cut_ends_with_the_table_of_the_unbroken_one(tuner, tmp_path):
    words = [*ONE, "trials=4", "sampler=tpe", "startup=2"]
    whole = tuner.run(*words, folder=tmp_path / "whole")
    tuner.done.clear()

    def cut(settings):
        if len(tuner.done) == 3:
            (tuner.folder / "baseline" / "002" / "run.json").write_text("{}")
            raise Cut
        return reached(settings)

    tuner.answer = cut
    with pytest.raises(Cut):
        tuner.run(*words)
    tuner.answer = reached
    assert tuner.run(*words) == whole
    assert len(tuner.done) == 3 + 2
    assert [settings.resume for settings in tuner.done] == [None, None, None, "auto", None]
    assert rate(tuner.done[2]) == rate(tuner.done[3])
    tuner.done.clear()
    assert tuner.run(*words) == whole
    assert not tuner.done


def test_processes_share_a_study(tuner):
    config = compose_config(f"folder={tuner.folder}", *ONE, name="tune")
    seen = []

    def answer(settings):
        if len(tuner.done) == 1:  # in the middle of the first trial another process comes
            seen.append(tuner.resume(config)[0]["trials"])
        return reached(settings)

    tuner.answer = answer
    assert tuner.resume(config)[0]["trials"] == "3"
    assert seen == ["3 (1 running)"]
    assert len({rate(settings) for settings in tuner.done}) == len(tuner.done) == 3


def test_pruned_trials_are_recorded_and_failed_ones_leave_the_others_alone(tuner, capsys):
    def answer(settings):
        if settings.name == "softmax" and len(tuner.done) > 2:
            raise Pruned("val/mrr was low at step 10")
        if settings.name == "baseline" and len(tuner.done) == 3:
            raise UserError("no luck")
        if settings.name == "baseline" and len(tuner.done) == 5:
            raise ZeroDivisionError("float\ndivision")
        return reached(settings)

    tuner.answer = answer
    with pytest.raises(SystemExit) as stopped:
        tuner.run(*BOTH)
    assert stopped.value.code == 1
    assert len(tuner.done) == 6
    printed = capsys.readouterr()
    assert "\nbaseline 001: no luck\n" in printed.err
    assert "\nbaseline 002: ZeroDivisionError: float division\n" in printed.err
    assert "3 (2 failed)" in printed.out
    assert "3 (2 pruned)" in printed.out
    before = [rate(settings) for settings in tuner.done if settings.name == "baseline"]
    tuner.answer = reached
    tuner.done.clear()
    rows = tuner.run(*BOTH)
    assert [(settings.name, rate(settings)) for settings in tuner.done] == [("baseline", one) for one in before[1:]]
    assert [row["trials"] for row in rows] == ["3", "3 (2 pruned)"]


def test_less_is_better_where_the_run_says_so(tuner):
    rows = tuner.run(*ONE, "metric=val/loss", 'overrides=["monitor=val/loss","mode=min"]')
    assert float(rows[0]["with the chosen"]) == round(min(map(reached, tuner.done)), 4)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["space.learning_rate.key=optimizer.lerning_rate"], "space: .*optimizer.lerning_rate"),
        (["space.learning_rate.key=optimizer.warmup", "space.learning_rate.high=2"], "optimizer.warmup: input should"),
        (["space.steps.choices=[100,0]"], "space: .*max_steps.*trainer.max_steps=0"),
        (["space.learning_rate.low=1"], "space.learning_rate: .*low.*<=.*high"),
        (["+space.learning_rate.lgo=true"], "space.learning_rate.lgo: no such setting"),
        (["+space.more=3"], "space.more: "),
        (["trials=0"], "trials: input should be greater than"),
        (["sampler=grid"], "sampler: input should be 'random' or 'tpe'"),
        (["metric=tuned/test/mrr"], "the test split never chooses anything"),
        (["metric=tuned/val/mmr"], "the run has no such metric"),
        (["experiments=[nobody]"], "nobody"),
        (['overrides=["seed=0,1"]'], "seed"),
        (['overrides=["data=nowhere"]'], "nowhere"),
        (['overrides=["trainer.devices=2"]'], "a trial has one device"),
    ],
)
def test_what_cannot_be_tuned_is_one_line_before_anything_runs(tuner, words, line):
    with pytest.raises(UserError, match=line) as raised:
        tuner.run(*ONE, *words)
    assert "\n" not in str(raised.value)
    assert not tuner.done
    assert not tuner.folder.exists()


def test_a_folder_of_another_space_is_refused(tuner):
    tuner.run("experiments=[baseline]", "trials=1")
    with pytest.raises(UserError, match=r"space: the trials of baseline in .* had "):
        tuner.run("experiments=[baseline]", "trials=1", "space.dropout.high=0.5")
    tuner.run("experiments=[baseline]", "trials=2")  # more trials are no other space
    assert len(tuner.done) == 2


def test_a_trial_is_an_ordinary_run(cache, tmp_path):
    words = ["data.source.n_images=260", "data.num_workers=0", "features=cached", "model/adaptation=frozen"]
    words += ["evaluation.bootstrap=2", "callbacks.progress=null", f"paths.cache_dir={cache}"]
    space = ("~space.dropout", "~space.adjustment", "~space.scale", "~space.learning_rate", "space.steps.choices=[2]")
    quoted = ",".join(f'"{word}"' for word in words)
    config = compose_config(f"folder={tmp_path}", *ONE, "trials=2", f"overrides=[{quoted}]", *space, name="tune")
    result = tune.run(typed(config, tune.Settings))
    first, second = result.studies["baseline"].trials
    assert second.params == {"steps": 2}
    assert list(second.intermediate_values) == [2]
    for name in (".hydra/config.yaml", "checkpoints/best.ckpt", "metrics.json", "predictions/val"):
        assert (tmp_path / "baseline" / "001" / name).exists(), name
    assert first.value is not None


@pytest.mark.parametrize(
    "node",
    [
        {},
        {"low": 1},
        {"low": 2, "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"low": 0.5, "high": 2, "integer": True},
        {"low": True, "high": 2},
        {"low": "1", "high": 2},
        {"choices": []},
        {"choices": [[1]]},
        {"choices": [1], "low": 0},
        {"choices": [1], "log": True},
        {"low": 0, "high": 1, "lgo": True},
    ],
)
def test_a_knob_that_says_nothing_clear_is_refused(node):
    with pytest.raises(ValidationError):
        tune.Knob.model_validate({"key": "a", **node})


def test_draws_stay_within_their_range_and_cover_it():
    def draws(**node):
        distribution = tune.Knob(key="a", **node).distribution()
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        return [study.ask({"a": distribution}).params["a"] for _ in range(200)]

    assert set(draws(low=1, high=3, integer=True)) == {1, 2, 3}
    assert set(draws(choices=["x", None])) == {"x", None}
    values = np.array(draws(low=1e-4, high=1e-2, log=True))
    assert 1e-4 <= values.min() < values.max() <= 1e-2
    assert math.isclose((values < 1e-3).mean(), 0.5, abs_tol=0.1)  # half of a logarithmic range is below its middle


def test_words_are_written_as_hydra_reads_them():
    space = {
        "rate": {"key": "optimizer.learning_rate", "low": 1e-6, "high": 1e-2},
        "weight": {"key": {"softmax": "loss.softmax", "tree": "loss.tree"}, "choices": [0.5, "a,b", True, None]},
    }
    settings = tune.Settings.model_construct(space={name: tune.Knob(**node) for name, node in space.items()})
    assert settings.words("tree", {"rate": 1e-5, "weight": "a,b"}) == [
        "optimizer.learning_rate=1e-05",
        'loss.tree="a,b"',
    ]
    assert settings.words("softmax", {"weight": True}) == ["loss.softmax=true"]
    assert settings.words("softmax", {"weight": None}) == ["loss.softmax=null"]
    assert settings.words("other", {"weight": 0.5}) == []
