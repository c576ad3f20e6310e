"""What bfloat16 in a frozen vision tower costs in quality: the same photographs, embedded in both precisions.

    python experiments/precision.py data.source.root=… model.vision=… model.text=…

The largest change of a photograph's features, and the probes of three splits on validation; the words of the command
line go to every run. Time: ``python benchmarks/extraction.py``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import cosine_similarity

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.heads import Bench
from experiments.probe import base_features, kernel_ridge, logistic_regression
from experiments.study import composed
from siglip_med.metrics import headline_metrics

SEEDS = range(3)
COMMON = (
    "model=dual_encoder",
    "model/adaptation=frozen",
    "features=cached",
    "data=csv",
    "data.source.group_column=look_alike_group",
)
METRICS = {"r_at_1": "R@1", "r_at_5": "R@5", "mrr": "MRR"}


def main(words: Sequence[str]) -> None:
    """Prints both tables."""
    lines, nearest = [], 1.0
    for seed in SEEDS:
        benches = {}
        for precision in ("float32", "bfloat16"):
            settings = composed((*COMMON, *words, f"features.precision={precision}", f"seed={seed}"))
            benches[precision] = bench = Bench.build(settings)
            matrix = bench.training_dissimilarity(settings, shuffled=False)
            probes = {
                "logistic regression": logistic_regression(bench)["val"],
                "refit": kernel_ridge(bench, [0.0, 0.1, 0.2, 0.4], matrix, base_features(bench))["val"],
            }
            for name, found in probes.items():
                values = headline_metrics(found)
                lines.append(
                    f"| {seed} | {precision} | {name} | " + " | ".join(f"{values[m]:.4f}" for m in METRICS) + " |"
                )
        exact, half = (torch.cat([b.features[s] for s in ("val", "test")]) for b in benches.values())
        nearest = min(nearest, float(cosine_similarity(exact, half).min()))
    print("| seed | precision | validation | " + " | ".join(METRICS.values()) + " |\n" + "|---" * 6 + "|")
    print("\n".join(lines))
    print(f"the cosine of a photograph's features in both precisions is at least {nearest:.5f}")


if __name__ == "__main__":
    main(sys.argv[1:])
