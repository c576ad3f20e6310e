"""What adapters on kept states cost in quality: the same run from pixels, from states, and from states of four views.

    python experiments/kept_states.py data.source.root=… model.vision=… model.text=…

Every run is one ``train.py`` in a folder of its own under ``logs/studies/kept_states``; those that are finished are not
run again. The words of the command line go to each. The table is of the validation split: nothing is chosen by it but
what to use later. It is written to ``experiments/kept_states/table.md``.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.tables import corrected_interval

ROOT = Path(__file__).resolve().parents[1]
SEEDS = range(3)
COMMON = (
    "model=dual_encoder",
    "experiment=layered",
    "data=csv",
    "data/sampling=natural",
    "data.batch_size=32",
    "data.source.group_column=near_dup_group",
    "model.image_size=112",
    "model.dropout=0.2",
    "model.adaptation.dropout=0",
    "model.adaptation.first_block={vision: 8, text: 4}",
    "model.max_text_length=24",
    "optimizer.head_learning_rate=0.006",
    "loss.terms.icd_tree.term.adjustment=0",
    "loss.terms.icd_tree.scale=1",
    "trainer.max_steps=300",
    "evaluation.probe_images=0",
    "evaluation.neighbours=0",
    "evaluation.bootstrap=100",
    "refit=null",
)
VARIANTS = {
    "pixels, augmented": (),
    "kept states": ("features=cached",),
    "kept states, 4 views": ("features=cached", "features.views=4"),
}
METRICS = {"r_at_1": "R@1", "r_at_5": "R@5", "mrr": "MRR", "icd_distance_all": "ICD dist. all ↓"}
REFERENCE = "pixels, augmented"


def folder(variant: str, seed: int) -> Path:
    """Of one run."""
    return ROOT / "logs" / "studies" / "kept_states" / f"{variant.replace(', ', '_').replace(' ', '_')}_seed{seed}"


def train(variant: str, seed: int, words: Sequence[str]) -> None:
    """One run, if it is not finished."""
    place = folder(variant, seed)
    if (place / "metrics.json").is_file():
        return
    run = [*COMMON, *VARIANTS[variant], *words, f"seed={seed}", f"hydra.run.dir={place}"]
    subprocess.run([sys.executable, str(ROOT / "train.py"), *run], cwd=ROOT, check=True)


def validation(run: Path) -> dict[str, float]:
    """The metrics of the validation split that a run ended with, by their short names."""
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    return {name: metrics[f"tuned/val/{name}"] for name in METRICS}


def table(values: dict[str, list[dict[str, float]]], train_images: int, val_images: int) -> str:
    """Mean ± sd over seeds, and the paired difference to the reference with its interval.

    Args:
        values: variant -> metrics of each seed.
        train_images: of a split.
        val_images: of a split.
    """
    lines = ["| validation split | " + " | ".join(METRICS.values()) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for variant, runs in values.items():
        cells = []
        for metric in METRICS:
            mine = [run[metric] for run in runs]
            cell = f"{np.mean(mine):.3f} ± {np.std(mine, ddof=1):.3f}"
            if variant != REFERENCE:
                differences = [one - run[metric] for one, run in zip(mine, values[REFERENCE], strict=True)]
                mean, low, high = corrected_interval(differences, train_images, val_images)
                cell += f" ({mean:+.3f} [{low:+.3f}, {high:+.3f}])"
            cells.append(cell)
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(words: Sequence[str]) -> None:
    """Runs what is left, seed by seed, and writes the table."""
    for seed in SEEDS:
        for variant in VARIANTS:
            train(variant, seed, words)
    values = {variant: [validation(folder(variant, seed)) for seed in SEEDS] for variant in VARIANTS}
    parts = (folder(REFERENCE, 0) / "split.csv").read_text().splitlines()[1:]
    sizes = [sum(line.endswith(f",{part}") for line in parts) for part in ("train", "val")]
    written = table(values, *sizes)
    place = ROOT / "experiments" / "kept_states" / "table.md"
    place.parent.mkdir(exist_ok=True)
    place.write_text(written)
    print(written)


if __name__ == "__main__":
    main(sys.argv[1:])
