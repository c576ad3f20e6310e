"""What others would pick, in quality at equal steps: their losses, positives, sentences and optimizers on our data.

    python experiments/recipes.py photographs data.source.root=… model.vision=… model.text=…
    python experiments/recipes.py drawings      the embedded default, beside the Trainer's own loop

Images, splits, batches, steps and towers are the same for all; heads too, where the towers never met. A recipe has as
many rates as every other, each tried on the first seed; the validation MRR of the refit on the tuned features chooses.
Every run is a line of ``logs/studies/recipes_<data>.jsonl``, where a run that was cut off resumes; tables go to the
screen and to ``logs/studies/recipes_<data>.csv``.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.heads import Bench, fit
from experiments.libraries import OneAnImage, OpenClip, Trainer, choose_trained, train_by_library
from experiments.plan import Study
from experiments.probe import Features, base_features, kernel_ridge, nearest_training_image, scores, tuned_features
from experiments.study import composed
from experiments.tables import differences, frame, means, to_markdown
from siglip_med.metrics import Predictions

FROZEN = "kernel ridge, frozen features"
TREES = [0.0, 0.1, 0.2, 0.4]
TUNED_ON, SEEDS = 1, 3


@dataclass(frozen=True)
class Recipe:
    """A row of the table.

    Attributes:
        rates: that it tries.
        words: overrides of ``train.py``, ours where it has no other.
        whole: train the weights of the adapted blocks themselves, without adapters.
        loss: of a library, on pairs; None: ours.
        optimizer: of a library; None: ours, whose heads keep their own rate.
        library: run the library's own loop.
    """

    rates: tuple[float, ...]
    words: tuple[str, ...] = ()
    whole: bool = False
    loss: str | None = None
    optimizer: type | None = None
    library: bool = False


SIGMOID, LAYERED = ("experiment=baseline",), ("experiment=layered",)
RECIPES = {"photographs": {
    "whole blocks, our sigmoid": Recipe((1e-5, 3e-5, 1e-4), SIGMOID, whole=True),
    "Trainer: adapters, CLIP loss, pairs": Recipe((1e-4, 3e-4, 1e-3), SIGMOID, loss="clip", optimizer=Trainer),
    "open_clip: whole blocks, SigLipLoss, pairs": Recipe(
        (3e-5, 1e-4, 3e-4), SIGMOID, whole=True, loss="siglip", optimizer=OpenClip
    ),
}, "drawings": {
    "adapters, layered": Recipe((1e-3, 3e-3), LAYERED),
    "Trainer: adapters, SigLIP loss, pairs": Recipe((1e-3, 3e-3), SIGMOID, library=True),
    "open_clip: whole towers, SigLipLoss, pairs": Recipe(
        (1e-4, 1e-3), (*SIGMOID, "model/adaptation=full"), loss="siglip", optimizer=OpenClip
    ),
}}  # fmt: skip
"""Rates of the libraries are above their own, whose runs are longer; the layered loss has the package's and a third."""

AHEAD = Study.model_validate(yaml.safe_load((Path(__file__).parent / "ahead/study.yaml").read_text()))
assert AHEAD.tuning is not None
COMMON = {"photographs": (*AHEAD.common, *AHEAD.tuning.overrides), "drawings": ()}
"""Photographs: as the trials of that study."""


def train(bench: Bench, recipe: Recipe, rate: float) -> None:
    """Trains the bench's model by a recipe, from its start."""
    settings, texts = bench.settings, bench.module.texts
    changes: dict[str, Any] = {"optimizer": {**settings.optimizer, "learning_rate": rate}}
    if recipe.optimizer:
        target = f"experiments.libraries.{recipe.optimizer.__name__}"
        changes["optimizer"] = {"_target_": target, "learning_rate": rate}
    if recipe.loss:
        changes["loss"] = {"_target_": "experiments.libraries.Theirs", "kind": recipe.loss}
        bench.module.texts = OneAnImage(texts)
    try:
        fit(bench, settings.model_copy(update=changes))
    finally:
        bench.module.texts = texts


def run(bench: Bench, recipe: Recipe, rate: float) -> dict[str, Any]:
    """Trains and judges; the bench is as it was afterwards."""
    start, adapters = time.process_time(), bench.start
    bench.model.load_trainable_state(adapters)
    if recipe.whole:
        choose_trained(bench.model, whole=True)
        bench.start = {name: value.clone() for name, value in bench.model.trainable_state().items()}
    try:
        (train_by_library if recipe.library else partial(train, recipe=recipe))(bench, rate=rate)
        seconds = time.process_time() - start
        return judge(bench) | {"seconds": seconds}
    finally:
        if recipe.whole:
            bench.model.load_trainable_state(bench.start)
            choose_trained(bench.model, whole=False)
            bench.start = adapters


def judge(bench: Bench) -> dict[str, Any]:
    """The prompts' scores, and those of a refit on the features by the towers as they are, for validation and test."""
    embedded = {split: bench.embed(split) for split in bench.frames}
    features = tuned_features(bench, {split: values for split, (_, values) in embedded.items()})
    prompts = {split: found for split, (found, _) in embedded.items()}
    return {"last": judged(bench, prompts), "refit": judged(bench, refit(bench, features))}


def refit(bench: Bench, features: Features) -> dict[str, Predictions]:
    """Kernel ridge regression with the tree's targets, as a run ends with."""
    return kernel_ridge(bench, TREES, bench.training_dissimilarity(bench.settings, shuffled=False), features)


def judged(bench: Bench, found: dict[str, Predictions]) -> dict[str, dict[str, float]]:
    """Metrics of validation and test."""
    return {"val": scores(found["val"]), "test": scores(found["test"], nearest_training_image(bench, "test"))}


def chosen(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """The rate with the best mean validation MRR of the refit over the seeds that it was tried on; test is not read."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if row["variant"] == name and row["seed"] < TUNED_ON:
            found.setdefault(row["rate"], []).append(row["refit"]["val"]["mrr"])
    return max(found, key=lambda rate: float(np.mean(found[rate])))


def main(words: Sequence[str]) -> None:
    """Runs what is left, and prints the tables of the rates that validation chose."""
    if not words or words[0] not in RECIPES:
        raise SystemExit(f"give the data: {' or '.join(RECIPES)}")
    data, *words = words
    log = Path(f"logs/studies/recipes_{data}.jsonl")
    log.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    benches: dict[tuple[str, ...], Bench] = {}
    for seed in range(SEEDS):
        earlier = next(iter(benches.values()), None) if data == "photographs" else None
        benches.clear()
        for name, recipe in RECIPES[data].items():
            for rate in recipe.rates if seed < TUNED_ON else (chosen(rows, name),):
                if any((row["variant"], row["seed"], row["rate"]) == (name, seed, rate) for row in rows):
                    continue
                key = (*COMMON[data], *recipe.words, *words, f"seed={seed}")
                bench = benches[key] = benches.get(key) or Bench.build(composed(key), earlier, data == "photographs")
                about = {"training": "all", "seed": seed, "steps": int(bench.settings.trainer["max_steps"])}
                about |= {"train_images": len(bench.split.train), "test_images": len(bench.split.test)}
                found = [{"variant": name, "rate": rate} | run(bench, recipe, rate)]
                if not any((row["variant"], row["seed"]) == (FROZEN, seed) for row in rows):
                    base = judged(bench, refit(bench, base_features(bench)))
                    found.append({"variant": FROZEN, "rate": 0.0, "seconds": 0.0, "last": base})
                with log.open("a") as file:
                    file.writelines(json.dumps(about | row) + "\n" for row in found)
                rows += [about | row for row in found]
    kept = [row for row in rows if row["variant"] == FROZEN or row["rate"] == chosen(rows, row["variant"])]
    table = frame(kept)
    table.round(5).to_csv(log.with_suffix(".csv"), index=False)
    print(to_markdown(means(table)), to_markdown(differences(table, FROZEN)), sep="\n\n")
    for name in RECIPES[data]:
        seconds = np.mean([row["seconds"] for row in kept if row["variant"] == name])
        print(f"{name}: rate {chosen(rows, name):g} of {RECIPES[data][name].rates}, {seconds:.0f} s to train")


if __name__ == "__main__":
    main(sys.argv[1:])
