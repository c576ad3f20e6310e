"""A whole study at toy size: tuned alike, resumed, and the test split unseen while tuning."""

import json

import pytest

from experiments import study as module
from experiments.plan import Study
from experiments.study import Job, Runner, run_study
from tests.models.tiny import write_dual
from tests.short_runs import SMALL

STUDY = {
    "common": ["model=dual_encoder", "model/adaptation=frozen", "features=cached"],
    "seeds": 2,
    "reference": "sigmoid",
    "tuning": {
        "trials": 2,
        "seeds": 1,
        "space": {"optimizer.head_learning_rate": {"low": 0.001, "high": 0.01, "log": True}, "model.dropout": [0.2]},
    },
    "training": {"natural": {}, "few": {"kind": "k_shot", "images": 2}},
    "variants": {
        "sigmoid": {"overrides": ["experiment=baseline"]},
        "layered": {"overrides": ["experiment=layered"], "space": {"loss.terms.icd_tree.scale": [4.0]}},
        "without_tree": {"overrides": ["experiment=layered", "~loss.terms.icd_tree"], "tuned_as": "layered"},
        "logistic_regression": {"probe": "linear", "only": ["natural"]},
        "kernel_ridge": {"probe": "kernel", "only": ["natural"]},
        "nearest_neighbours": {"probe": "neighbours", "only": ["natural"]},
    },
}


PARSED = Study.model_validate(STUDY)


@pytest.fixture(scope="module")
def words(cache, tmp_path_factory):
    towers = write_dual(tmp_path_factory.mktemp("study_towers"))
    return [*SMALL, f"paths.cache_dir={cache}", *(f"model.{tower}={path}" for tower, path in towers.items())]


def test_a_quick_study_runs_resumes_and_writes_its_tables(tmp_path, words, monkeypatch):
    log = tmp_path / "runs.jsonl"
    run_study(PARSED.quick(), log, words, quick=True, output=tmp_path)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == 2 * 2 + 2 * (2 * 3 + 3)
    assert all("test" not in end for row in rows if row["stage"] == "tune" for end in [row["last"], *row["curve"]])
    text = (tmp_path / "table.md").read_text()
    assert {"sigmoid + CRM", "without_tree", "logistic_regression"} <= {
        line.split("|")[1].strip() for line in text.splitlines() if "|" in line
    }
    assert (tmp_path / "figure.png").is_file()

    # A study that was cut off in its last run does that run again, and no other.
    log.write_text("".join(f"{json.dumps(row)}\n" for row in rows[:-1]))
    done: list[Job] = []
    do = Runner.do
    monkeypatch.setattr(Runner, "do", lambda self, job: done.append(job) or do(self, job))
    run_study(PARSED.quick(), log, words, quick=True, output=tmp_path)
    assert [job.key for job in done] == [tuple(rows[-1][name] for name in Job.__dataclass_fields__)]
    again = json.loads(log.read_text().splitlines()[-1])
    assert again["last"]["test"]["mrr"] == pytest.approx(rows[-1]["last"]["test"]["mrr"], abs=1e-6)


def test_a_run_of_an_earlier_version_of_the_study_is_run_again(tmp_path, words):
    job = Job("final", "natural", "layered", 0, 0)
    runner = Runner(PARSED, tmp_path / "log.jsonl", words)
    runner.done[job.key] = {"recipe": runner.recipe(job)}
    assert runner.is_done(job)
    for change in (
        {"common": [*STUDY["common"], "trainer.max_steps=9"]},
        {"training": {"natural": {"kind": "k_shot"}}},
    ):
        assert not Runner(
            Study.model_validate(STUDY | change), tmp_path / "log.jsonl", words, done=runner.done
        ).is_done(job)


def test_every_loss_tries_the_same_draws_and_a_part_takes_those_of_the_whole(tmp_path, words):
    runner = Runner(PARSED, tmp_path / "log.jsonl", words)
    assert runner.knobs("sigmoid", 0) == []
    assert runner.knobs("layered", 1)[:2] == runner.knobs("sigmoid", 1)
    settings = runner.settings(Job("final", "natural", "without_tree", 1, 3))
    assert settings.seed == 3
    assert settings.model["dropout"] == 0.2
    assert "icd_tree" not in settings.loss["terms"]


def test_the_trial_with_the_best_validation_is_chosen(tmp_path, words):
    runner = Runner(PARSED, tmp_path / "log.jsonl", words)
    for trial, value in enumerate((0.3, 0.5)):
        runner.done[("tune", "natural", "sigmoid", trial, 0)] = {"last": {"val": {"mrr": value}}}
    assert runner.chosen("sigmoid") == 1


def test_trials_may_be_judged_by_the_refit_at_settings_of_their_own(tmp_path, words, monkeypatch):
    tuning = {**STUDY["tuning"], "end": "refit", "overrides": ["model.image_size=24"], "trials": 1}
    common = ["model=dual_encoder", "model.adaptation.rank=2"]
    variants = {name: {"overrides": [f"experiment={name}"]} for name in ("baseline",)}
    parts = {"common": common, "tuning": tuning, "variants": variants, "reference": "baseline", "averaged": False}
    study = Study.model_validate(STUDY | parts | {"seeds": 1, "looks": 1, "training": {"all": {}}})
    runner = Runner(study, tmp_path / "log.jsonl", words, quick=True)
    sizes = []
    do = Runner.do
    monkeypatch.setattr(
        Runner, "do", lambda self, job: (do(self, job), sizes.append(self.bench.model.image_spec.size))[0]
    )
    runner.run(runner.tuning_jobs())
    (trial,) = runner.done.values()
    assert list(trial["refit"]) == ["val"]
    runner.run(runner.final_jobs())
    (final,) = (row for row in runner.done.values() if row["stage"] == "final")
    assert sizes[0] == 24 != sizes[1]
    assert {"refit", "refit_one_hot", "refit_shuffled"} <= set(final)
    assert "average" not in final
    for trial, (prompts, refit) in enumerate(((0.9, 0.3), (0.1, 0.5))):
        values = {"last": {"val": {"mrr": prompts}}, "refit": {"val": {"mrr": refit}}}
        runner.done[("tune", "all", "baseline", trial, 0)] = values
    runner.study = study.model_copy(update={"tuning": study.tuning.model_copy(update={"trials": 2})})
    assert runner.chosen("baseline") == 1


def test_a_misspelt_key_of_a_study_is_refused():
    with pytest.raises(ValueError, match="seedz"):
        Study.model_validate(STUDY | {"seedz": 3})


def test_a_part_of_a_study_keeps_what_is_named_and_refuses_what_is_not_there():
    assert list(PARSED.part("variants", ["layered", "sigmoid"]).variants) == ["sigmoid", "layered"]
    with pytest.raises(SystemExit, match="training=long: the study has natural, few"):
        PARSED.part("training", ["long"])


def test_without_a_study_the_command_says_what_to_give():
    with pytest.raises(SystemExit, match="give a study"):
        module.main([])
