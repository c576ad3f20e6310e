"""Our refit beside what others train on a frozen model's embeddings, on the same splits.

    python experiments/others.py seeds=10                                   the embedded default, frozen
    python experiments/others.py seeds=3 model=dual_encoder data=csv …      photographs

Where the towers never met (a dual encoder), the text classifier is that of heads trained with the sigmoid, and the
embeddings are theirs. Prints a table and each row less the refit, paired by seed.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch.nn.functional import normalize

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.few_shot_methods import METHODS, Task, shares, tuned
from experiments.heads import Bench, fit
from experiments.probe import (
    base_features,
    kernel_ridge,
    logistic_regression,
    nearest_neighbours,
    nearest_training_image,
    scores,
    training_rows,
)
from experiments.study import composed
from experiments.tables import differences, means, to_markdown
from siglip_med.core.progress import tracked
from siglip_med.metrics import Predictions
from siglip_med.models import DualEncoder

COMMON = ("experiment=baseline", "model/adaptation=frozen", "features=cached", "data/sampling=natural")
REFERENCE = "kernel ridge, tree targets"


def task_of(bench: Bench) -> Task:
    """The frozen embeddings of a bench, and its prompts as a classifier."""
    model = bench.model.eval()
    values, labels, primary = training_rows(bench)
    with torch.no_grad():
        text = bench.components.prompt_ensemble.encode(model)
        images = normalize(model.project_images(torch.from_numpy(values)).float(), dim=-1)
        others = {
            split: normalize(model.project_images(rows).float(), dim=-1) for split, rows in bench.features.items()
        }
    return Task(
        images,
        shares(labels, primary),
        others,
        text,
        float(model.logit_scale.detach().exp()),
        bench.frames,
        bench.settings.seed,
    )


def rows_of(bench: Bench) -> dict[str, dict[str, Predictions]]:
    """Every method's predictions for ``val`` and ``test`` of one seed."""
    matrix = bench.training_dissimilarity(bench.settings, shuffled=False)
    found = {
        REFERENCE: kernel_ridge(bench, [0.0, 0.1, 0.2, 0.4], matrix, base_features(bench)),
        "logistic regression": logistic_regression(bench),
        "nearest neighbours": nearest_neighbours(bench),
    }
    if isinstance(bench.model, DualEncoder):
        fit(bench, bench.settings)
    text = {split: bench.predict(split) for split in bench.frames}
    task = task_of(bench)
    return found | {"the text classifier": text} | {name: tuned(task, name) for name in METHODS}


def main(words: Sequence[str]) -> None:
    """Prints the tables."""
    seeds = int(next((word.split("=")[1] for word in words if word.startswith("seeds=")), 3))
    words = [word for word in words if not word.startswith("seeds=")]
    lines = []
    for seed in tracked(range(seeds), "seeds"):
        bench = Bench.build(composed((*COMMON, *words, f"seed={seed}")))
        near = nearest_training_image(bench, "test")
        sizes = {"train_images": len(bench.split.train), "test_images": len(bench.split.test)}
        for name, found in rows_of(bench).items():
            line = {"training": "all", "variant": name, "seed": seed, "end": "last"} | sizes
            lines.append(line | scores(found["test"], near))
    table = pd.DataFrame(lines)
    print(to_markdown(means(table)), to_markdown(differences(table, REFERENCE)), sep="\n\n")


if __name__ == "__main__":
    main(sys.argv[1:])
