"""Runs a study: losses tuned alike on validation, then trained on many seeds and compared on test.

``python experiments/study.py photographs [key=value …]``

``experiments/<study>/study.yaml`` says what is compared. ``quick=true``, ``tuning=false``, ``seeds=5``,
``variants=a,b`` and ``training=a`` run a part of it; the other words are overrides of ``train.py`` for every run, such
as where data and towers lie. Every finished run is a line of ``logs/studies/<study>.jsonl``: a study that was
interrupted resumes where it stopped. Tables and figures go into the study's folder.
"""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.heads import Bench, fit
from experiments.plan import Spread, Study
from experiments.probe import (
    base_features,
    kernel_ridge,
    logistic_regression,
    nearest_neighbours,
    nearest_training_image,
    scores,
    tuned_features,
)
from experiments.tables import write_results
from siglip_med.commands import train
from siglip_med.core.config import config_dir, typed
from siglip_med.metrics import Predictions, crm

CURVE = ("r_at_1", "r_at_5", "mrr", "map", "icd_distance_all", "icd_distance_top5", "hops")
"""Metrics of every validation of a run; of its end every headline metric is kept but areas under curves."""


OPTIONS = ("quick", "tuning", "seeds", "variants", "training")
"""Words of the command line that are the study's; all others are the runs'."""


@dataclass(frozen=True)
class Job:
    """One run: its key in the log, and what it needs."""

    stage: Literal["tune", "final"]
    training: str
    variant: str
    trial: int
    seed: int

    @property
    def key(self) -> tuple[Any, ...]:
        """What a finished run is known by."""
        return (self.stage, self.training, self.variant, self.trial, self.seed)


@dataclass
class Runner:
    """Runs a study's jobs, each once, and appends what they gave to the log."""

    study: Study
    log: Path
    overrides: list[str]
    quick: bool = False
    done: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    bench: Bench | None = None

    def __post_init__(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        for row in map(json.loads, lines):
            self.done[Job(*(row[name] for name in Job.__dataclass_fields__)).key] = row

    # ---- what there is to do -----------------------------------------------------------------------------------

    def tuning_jobs(self) -> list[Job]:
        """Every trial of every loss, seed by seed."""
        if self.study.tuning is None:
            return []
        tuned = [name for name, variant in self.study.variants.items() if not (variant.tuned_as or variant.probe)]
        first = next(iter(self.study.training))
        return [
            Job("tune", first, name, trial, seed)
            for seed in range(self.study.tuning.seeds)
            for name in tuned
            for trial in range(self.study.tuning.trials)
        ]

    def final_jobs(self) -> list[Job]:
        """Every variant on every training data, seed by seed."""
        return [
            Job("final", data, name, self.chosen(variant.tuned_as or name), seed)
            for data in self.study.training
            for seed in range(self.study.seeds)
            for name, variant in self.study.variants.items()
            if variant.only is None or data in variant.only
        ]

    def chosen(self, name: str) -> int:
        """The trial with the best validation of a loss."""
        tuning, variant = self.study.tuning, self.study.variants[name]
        if tuning is None or variant.probe:
            return 0
        data = next(iter(self.study.training))
        rows = [[self.done[("tune", data, name, t, s)] for s in range(tuning.seeds)] for t in range(tuning.trials)]
        means = [np.mean([row[tuning.end]["val"][tuning.metric] for row in trial]) for trial in rows]
        return int(np.argmax(means))

    def knobs(self, name: str, trial: int) -> list[str]:
        """The overrides of a trial: the common draws are those of every loss."""
        if trial == 0 or self.study.tuning is None:
            return []
        random = np.random.default_rng((trial, 4))
        space = self.study.tuning.space | self.study.variants[name].space
        return [f"{key}={_draw(choices, random)}" for key, choices in space.items()]

    @property
    def judged_by_refit(self) -> bool:
        """Whether trials are chosen by a refit on their features."""
        return self.study.tuning is not None and self.study.tuning.end == "refit"

    # ---- doing it ----------------------------------------------------------------------------------------------

    def run(self, jobs: list[Job]) -> None:
        """Does the jobs that are not done."""
        left = [job for job in jobs if not self.is_done(job)]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
            task = progress.add_task("", total=len(left))
            for job in left:
                progress.update(task, description=f"{job.stage} {job.training} {job.variant} seed {job.seed}")
                row = {name: getattr(job, name) for name in Job.__dataclass_fields__} | {"recipe": self.recipe(job)}
                row |= self.do(job)
                with self.log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                self.done[job.key] = row
                progress.advance(task)

    def words(self, job: Job) -> list[str]:
        """The study's own words of a run's command line; what a variant leaves out goes last.

        A setting that was chosen for the whole may be one of a part that is left out.
        """
        variant, data = self.study.variants[job.variant], self.study.training[job.training]
        knobs = self.knobs(variant.tuned_as or job.variant, job.trial)
        short = ["trainer.max_steps=30"] if self.quick else []
        added = [word for word in variant.overrides if not word.startswith("~")]
        removed = [word for word in variant.overrides if word.startswith("~")]
        trial = self.study.tuning.overrides if self.study.tuning and job.stage == "tune" else []
        return [*self.study.common, *data.overrides, *added, *knobs, *trial, *short, *removed]

    def settings(self, job: Job) -> train.Settings:
        """Of ``train.py``, for one run."""
        words = self.words(job)
        place = next((i for i, word in enumerate(words) if word.startswith("~")), len(words))
        words[place:place] = self.overrides
        return composed(tuple(words)).model_copy(update={"seed": job.seed})

    def recipe(self, job: Job) -> dict[str, Any]:
        """Everything that decides what a run gives, but where its files lie."""
        variant, training = self.study.variants[job.variant], self.study.training[job.training]
        return {
            "words": self.words(job),
            "shuffled": variant.shuffled,
            "probe": [variant.probe, variant.trees] if variant.probe == "kernel" else variant.probe,
            "rows": training.model_dump(exclude={"overrides"}),
        } | ({"rounded": True} if self.study.rounded else {})

    def is_done(self, job: Job) -> bool:
        """Whether the log holds this run, as the study has it today."""
        row = self.done.get(job.key)
        return row is not None and row["recipe"] == self.recipe(job)

    def do(self, job: Job) -> dict[str, Any]:
        """Trains one variant and scores it; a trial never sees the test split."""
        start, settings, variant = time.perf_counter(), self.settings(job), self.study.variants[job.variant]
        if self.bench is None or not self.bench.serves(settings):
            self.bench = Bench.build(settings, self.bench, self.study.rounded)
        bench = self.bench
        bench.train_on(self.study.training[job.training].rows(job.seed))
        splits = ("val",) if job.stage == "tune" else ("val", "test")
        sizes = {"train_images": len(bench.components.data.split.train), "test_images": len(bench.split.test)}
        near = {split: nearest_training_image(bench, split) for split in splits}
        matrix = bench.training_dissimilarity(settings, variant.shuffled)

        def judged(found: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
            return {split: scores(found[split], near[split]) for split in splits}

        if variant.probe:
            if variant.probe == "kernel":
                found = kernel_ridge(bench, variant.trees, matrix, base_features(bench))
            else:
                found = (logistic_regression if variant.probe == "linear" else nearest_neighbours)(bench)
            return {"seconds": time.perf_counter() - start, "steps": 0, "last": judged(found)} | sizes
        curve: list[dict[str, Any]] = []
        steps = int(settings.trainer["max_steps"])
        last: dict[str, Predictions] = {}
        features: dict[str, np.ndarray] = {}

        def seen(step: int) -> None:
            if step < steps and step - (curve[-1]["step"] if curve else 0) < steps / self.study.looks:
                return
            for split in splits:
                last[split], features[split] = bench.embed(split)
            values = {split: scores(last[split]) for split in splits}
            curve.append({"step": step} | {split: {m: value[m] for m in CURVE} for split, value in values.items()})

        average = fit(bench, settings, variant.shuffled, seen)
        row = {
            "knobs": self.knobs(variant.tuned_as or job.variant, job.trial),
            "steps": curve[-1]["step"],
            "curve": curve,
            "last": judged(last),
        }
        if bench.trains_vision and (job.stage == "final" or self.judged_by_refit):
            tuned = tuned_features(bench, features)
            row["refit"] = judged(kernel_ridge(bench, variant.trees, matrix, tuned))
            if job.stage == "final":
                row["refit_one_hot"] = judged(kernel_ridge(bench, [0.0], matrix, tuned))
                shuffled = bench.training_dissimilarity(settings, shuffled=True)
                row["refit_shuffled"] = judged(kernel_ridge(bench, variant.trees[-1:], shuffled, tuned))
        if job.stage == "final":
            row["crm"] = {split: scores(crm(predictions)) for split, predictions in last.items()}
        if job.stage == "final" and self.study.averaged:
            bench.model.load_trainable_state(average)
            row["average"] = judged({split: bench.predict(split) for split in splits})
        return row | {"seconds": time.perf_counter() - start} | sizes


@lru_cache(maxsize=64)
def composed(overrides: tuple[str, ...]) -> train.Settings:
    """The settings that ``python train.py`` with these words has."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir().resolve())):
        return typed(compose("train", overrides=["paths.output_dir=unused", *overrides]), train.Settings)


def _draw(choices: list[Any] | Spread, random: np.random.Generator) -> Any:
    if isinstance(choices, list):
        return choices[int(random.integers(len(choices)))]
    if choices.log:
        return f"{np.exp(random.uniform(np.log(choices.low), np.log(choices.high))):.3g}"
    return f"{random.uniform(choices.low, choices.high):.3g}"


def run_study(study: Study, log: Path, overrides: list[str], quick: bool, output: Path) -> None:
    """Runs what is left of a study and writes its results.

    Args:
        study: what to run.
        log: the finished runs.
        overrides: of ``train.py``, for every run.
        quick: a few steps of everything.
        output: folder of the results.
    """
    runner = Runner(study, log, overrides, quick)
    runner.run(runner.tuning_jobs())
    finals = runner.final_jobs()
    runner.run(finals)
    rows = [runner.done[job.key] for job in finals]
    trials = [runner.done[job.key] for job in runner.tuning_jobs()]
    tuning = study.tuning
    write_results(output, study.reference, rows, trials, (tuning.metric, tuning.end) if tuning else None)


def main(words: list[str]) -> None:
    """The command line."""
    if not words or "=" in words[0]:
        raise SystemExit("give a study: python experiments/study.py photographs [quick=true] [key=value …]")
    folder = Path(__file__).parent / words[0]
    options = dict(word.split("=", 1) for word in words[1:] if word.split("=", 1)[0] in OPTIONS)
    overrides = [word for word in words[1:] if word.split("=", 1)[0] not in OPTIONS]
    study = Study.model_validate(yaml.safe_load((folder / "study.yaml").read_text()))
    quick = options.get("quick") == "true"
    if quick:
        study = study.quick()
    if options.get("tuning") == "false":
        study = study.model_copy(update={"tuning": None})
    if "seeds" in options:
        study = study.model_copy(update={"seeds": int(options["seeds"])})
    for part in ("variants", "training"):
        if part in options:
            study = study.part(part, options[part].split(","))
    output = Path("logs/studies") / f"{words[0]}_quick" if quick else folder
    output.mkdir(parents=True, exist_ok=True)
    log = Path("logs/studies") / f"{words[0]}{'_quick' if quick else ''}.jsonl"
    run_study(study, log, overrides, quick, output)


if __name__ == "__main__":
    main(sys.argv[1:])
