"""``sweep=tune``: every loss the same trials, on validation; cut and given again, it ends with the same table."""

import csv
import json

import pytest

from siglip_med.core.errors import UserError
from siglip_med.sweeps import read_records
from siglip_med.training.pruning import Pruned
from tests.sweeps.app import Cut

pytest.importorskip("optuna")
TUNE = ["sweep=tune", "experiment=baseline,softmax", "hydra.sweeper.trials=3"]
ONE = ["sweep=tune", "experiment=baseline"]


def reached(config):
    """Best at a rate of 0.002; a function of the settings alone."""
    term = next(iter(config.loss.terms.values()))
    return 0.9 - abs(config.optimizer.learning_rate - 0.002) - 0.01 * term.scale - 0.001 * len(config.name)


def table(folder):
    with (folder / "tune.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_loss_gets_the_same_number_of_trials_and_the_same_draws(app, capsys):
    app.answer = reached
    assert app.run(*TUNE) == 0
    of = {name: [c for c in app.done if c.name == name] for name in ("baseline", "softmax")}
    assert [len(jobs) for jobs in of.values()] == [3, 3]
    for read in (
        lambda c: c.optimizer.learning_rate,
        lambda c: c.model.adaptation.dropout,
        lambda c: c.trainer.max_steps,
        lambda c: next(iter(c.loss.terms.values())).scale,
        lambda c: next(iter(c.loss.terms.values())).term.adjustment,
    ):
        first, second = ([read(config) for config in jobs] for jobs in of.values())
        assert first == second
        assert len(set(first[1:])) > 1
    rows = {row["experiment"]: row for row in table(app.folder)}
    for name, jobs in of.items():
        values = [reached(config) for config in jobs]
        assert rows[name]["with its defaults"] == f"{values[0]:.4f}"
        assert rows[name]["with the chosen"] == f"{max(values):.4f}"
        best = jobs[values.index(max(values))]
        assert f"optimizer.learning_rate={best.optimizer.learning_rate}" in rows[name]["chosen settings"]
    printed = capsys.readouterr().out
    assert "python train.py -m experiment=softmax optimizer.learning_rate=" in printed
    for file in ("leaderboard.csv", "leaderboard.md", "leaderboard.html"):
        assert "R@1" not in (app.folder / file).read_text()  # the test split is not shown where settings are chosen
        assert "/test/" not in (app.folder / file).read_text()


def test_a_cut_sweep_ends_with_the_table_of_the_unbroken_one(app, tmp_path):
    words = [*ONE, "hydra.sweeper.trials=4", "hydra.sweeper.sampler=tpe", "hydra.sweeper.startup=2"]
    app.answer = reached
    assert app.run(*words, folder=tmp_path / "whole") == 0
    app.done.clear()

    app.cut_at(3)
    with pytest.raises(Cut):
        app.run(*words)
    app.answer = reached
    assert app.run(*words) == 0
    assert len(app.done) == 3 + 2
    assert table(app.folder) == table(tmp_path / "whole")
    app.done.clear()
    assert app.run(*words) == 0
    assert not app.done


def test_pruned_trials_are_pruned_and_failed_ones_are_tried_again(app, capsys):
    def answer(config):
        if config.trainer.max_steps != 300 and config.name == "softmax":
            raise Pruned("val/mrr was low at step 10")
        if config.loss.terms.get("sigmoid") and config.loss.terms.sigmoid.term.adjustment == 1.0:
            raise UserError("no luck")
        return reached(config)

    app.answer = answer
    status = app.run(*TUNE, "hydra.sweeper.space.adjustment.choices=[1.0]")
    states = {record.state for record in read_records(app.folder)}
    assert status == 1
    assert states == {"finished", "pruned", "failed"}
    chosen = {one["experiment"]: one for one in json.loads((app.folder / "tune.json").read_text())}
    assert chosen["baseline"]["failed"] == 2
    assert chosen["softmax"]["pruned"] > 0
    assert "val/mrr was low at step 10" in (app.folder / "leaderboard.html").read_text()
    app.answer = reached
    before = [c.optimizer.learning_rate for c in app.done if c.name == "baseline"]
    app.done.clear()
    assert app.run(*TUNE, "hydra.sweeper.space.adjustment.choices=[1.0]") == 0
    assert [c.optimizer.learning_rate for c in app.done] == before[1:]
    assert table(app.folder)[0]["trials"] == "3"


def test_less_is_better_where_the_run_says_so(app):
    app.answer = reached
    assert app.run(*ONE, "hydra.sweeper.trials=3", "monitor=val/loss", "mode=min", "optimized_metric=val/loss") == 0
    values = [reached(config) for config in app.done if config.name == "baseline"]
    assert table(app.folder)[0]["with the chosen"] == f"{min(values):.4f}"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["space.learning_rate.key=optimizer.lerning_rate"], "space.learning_rate: optimizer.lerning_rate="),
        (
            ["space.learning_rate.key=optimizer.warmup", "space.learning_rate.high=2"],
            "optimizer.warmup: input should be",
        ),
        (["space.steps.choices=[100,0]"], "hydra.sweeper.space.steps: trainer.max_steps=0 in baseline"),
        (["space.learning_rate.low=1"], "hydra.sweeper.space.learning_rate: low must be below high"),
        (["space.learning_rate.lgo=true"], "hydra.sweeper.space.learning_rate.lgo: no such setting"),
        (["space.more=3"], "hydra.sweeper.space.more: give key with low and high"),
        (["trials=0"], "hydra.sweeper.trials: input should be greater than"),
        (["sampler=grid"], "hydra.sweeper.sampler: input should be 'random' or 'tpe'"),
    ],
)
def test_a_wrong_space_is_one_line_before_anything_runs(app, words, line, capsys):
    refused(app, [f"++hydra.sweeper.{word}" for word in words], line, capsys)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["optimized_metric=tuned/test/mrr"], "the test split never chooses anything"),
        (["optimized_metric=null"], "optimized_metric: sweep=tune needs a metric"),
        (["seed=0,1"], "seed: sweep=tune tunes on one seed"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(app, words, line, capsys):
    refused(app, words, line, capsys)


def refused(app, words, line, capsys):
    assert app.run("sweep=tune", "experiment=baseline", *words) == 2
    printed = capsys.readouterr().err
    assert line in printed, printed
    assert printed.count("error: ") == 1
    assert not app.done
    assert not (app.folder / "tune.db").exists()


def test_a_folder_of_another_space_is_refused(app, capsys):
    app.run(*ONE, "hydra.sweeper.trials=1")
    assert app.run(*ONE, "hydra.sweeper.trials=1", "hydra.sweeper.space.dropout.high=0.5") == 2
    assert "its trials of baseline had another space" in capsys.readouterr().err
    assert app.run(*ONE, "hydra.sweeper.trials=2") == 0  # more trials are no other space
    assert len(app.done) == 2
