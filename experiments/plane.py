"""Draws what the methods give on photographs, two metrics at once: ``python experiments/plane.py``."""

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.tables import draw_plane

FOLDER = Path(__file__).parent / "photographs"
NAMES = {
    "sigmoid": "multi-positive sigmoid",
    "softmax": "softmax",
    "layered": "layered",
    "shuffled": "layered, tree shuffled (control)",
    "logistic_regression": "logistic regression",
    "kernel_ridge_without_tree": "refit without tree",
    "kernel_ridge": "refit (what a run ends with)",
}

if __name__ == "__main__":
    table = pd.read_csv(FOLDER / "results.csv")
    draw_plane(table[table["training"] == "natural"], "sigmoid", FOLDER / "plane.png", NAMES)
