"""Table and figure of a study: ``python experiments/draw.py logs/finetune/sweeps/… experiments/photographs``."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from siglip_med.report.leaderboard import differences, read_runs, summarize, to_markdown

PANELS = {
    "tuned/test/r_at_1": "R@1",
    "tuned/test/r_at_5": "R@5",
    "tuned/test/macro_r_at_5": "macro R@5",
    "tuned/test/icd_distance_all": "ICD distance, all predictions ↓",
}
REFERENCES = {"zero_shot": ("zero-shot", ":"), "label_frequency": ("label frequency", "--")}


def draw(runs: pd.DataFrame, path: Path) -> None:
    """One panel a metric: a dot a seed, a bar at the mean, lines at zero-shot and the label frequencies."""
    order = list(dict.fromkeys(runs["name"]))
    figure, axes = plt.subplots(1, len(PANELS), figsize=(13, 1.4 + 0.4 * len(order)), sharey=True)
    for axis, (metric, title) in zip(axes, PANELS.items(), strict=True):
        for place, name in enumerate(reversed(order)):
            values = runs.loc[runs["name"] == name, metric]
            axis.plot(values, [place] * len(values), "o", color="#0072B2", alpha=0.6, markersize=5)
            axis.plot([values.mean()], [place], "|", color="black", markersize=16)
        for model, (label, style) in REFERENCES.items():
            axis.axvline(runs[metric.replace("tuned", model)].mean(), color="#D55E00", linestyle=style, label=label)
        axis.set_yticks(range(len(order)), list(reversed(order)))
        axis.set_title(title, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=2, frameon=False)
    figure.suptitle("test split: a dot a seed, a bar at the mean; chosen and stopped by validation", fontsize=11)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=110)


def main() -> None:
    """Writes results.csv, table.md, differences.md and figure.png into the study's folder."""
    sweep, study = Path(sys.argv[1]), Path(sys.argv[2])
    runs = read_runs(sweep)
    runs.round(5).to_csv(study / "results.csv", index=False)
    for name, table in (("table.md", summarize(runs)), ("differences.md", differences(runs))):
        (study / name).write_text(to_markdown(table))
        print((study / name).read_text())
    draw(runs, study / "figure.png")


if __name__ == "__main__":
    main()
