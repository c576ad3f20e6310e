"""Draws what a study's methods give, two metrics at once: ``python experiments/plane.py photographs`` or ``ahead``."""

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.tables import draw_plane, label

STUDIES = {
    "photographs": (
        "natural",
        "sigmoid",
        {
            "sigmoid": "multi-positive sigmoid",
            "softmax": "softmax",
            "layered": "layered",
            "shuffled": "layered, tree shuffled (control)",
            "logistic_regression": "logistic regression",
            "kernel_ridge_without_tree": "refit without tree",
            "kernel_ridge": "refit (what a run ends with)",
        },
    ),
    "ahead": (
        "all",
        "kernel_ridge",
        {
            "logistic_regression": "logistic regression, towers not trained",
            "kernel_ridge_without_tree": "kernel ridge without tree, towers not trained",
            "kernel_ridge": "kernel ridge, towers not trained",
            "sigmoid": "sigmoid, by its prompts",
            "layered": "layered, by its prompts",
            "sigmoid, refit": "refit on towers trained with the sigmoid",
            "layered, refit": "refit on towers trained with layered",
            "layered, refit with a shuffled tree": "the same with a shuffled tree (control)",
        },
    ),
}
"""Training data, reference, and what the dots are called."""

if __name__ == "__main__":
    name = sys.argv[1] if sys.argv[1:] else "photographs"
    training, reference, names = STUDIES[name]
    folder = Path(__file__).parent / name
    table = pd.read_csv(folder / "results.csv")
    table = table[table["training"] == training]
    ends = [label(*of) for of in zip(table["variant"], table["end"], strict=True)]
    draw_plane(table.assign(variant=ends, end="last"), reference, folder / "plane.png", names)
