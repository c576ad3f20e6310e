"""The table of a sweep: mean and standard deviation over seeds, ranked by validation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from scipy import stats

RANKED_BY = "tuned/val/r_at_5"

COLUMNS = {
    RANKED_BY: "val R@5",
    "tuned/test/r_at_1": "R@1",
    "tuned/test/r_at_5": "R@5",
    "tuned/test/macro_r_at_5": "macro R@5",
    "tuned/test/macro_f1": "macro F1",
    "tuned/test/icd_distance_all": "ICD dist. all",
    "tuned/test/icd_distance_mistakes": "ICD dist. mistakes",
    "tuned/test/spearman_text_d": "Spearman(text, D)",
}
"""Metric of a run → heading. All but the first are of the test split, which never chooses anything."""


def read_runs(folder: Path) -> pd.DataFrame:
    """One row a finished run of a sweep folder: ``run``, ``name``, ``seed`` and every metric."""
    rows = []
    for path in sorted(folder.glob("*/metrics.json")):
        result = json.loads(path.read_text())
        rows.append({"run": path.parent.name, "name": result["name"], "seed": result["seed"], **result["metrics"]})
    return pd.DataFrame(rows)


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample standard deviation by name, best validation first; one seed has no deviation ("–")."""
    known = [column for column in COLUMNS if column in runs]
    groups = runs.groupby("name", sort=False)
    means, deviations = groups[known].mean(), groups[known].std(ddof=1)
    table = pd.DataFrame({"name": means.index, "seeds": groups.size().to_numpy()})
    for column in known:
        table[COLUMNS[column]] = [
            f"{mean:.3f} ± " + ("–" if pd.isna(deviation) else f"{deviation:.3f}")
            for mean, deviation in zip(means[column], deviations[column], strict=True)
        ]
    if RANKED_BY in known:
        table = table.iloc[means[RANKED_BY].reset_index(drop=True).sort_values(ascending=False, kind="stable").index]
    return table.reset_index(drop=True)


def differences(runs: pd.DataFrame, reference: str = "baseline", coverage: float = 0.95) -> pd.DataFrame:
    """What each name gains over a reference on the test split, paired by seed: a seed's runs share their split.

    Args:
        runs: from `read_runs`.
        reference: the name that the others are held against.
        coverage: of the Student interval of the mean difference.

    Returns:
        ``mean [low, high]`` by name and metric; names that share fewer than two seeds with the reference are left out.
    """
    known = [column for column in COLUMNS if column in runs and column != RANKED_BY]
    ours = runs.set_index(["name", "seed"])[known]
    rows = []
    for name in dict.fromkeys(runs["name"]):
        if name == reference or reference not in ours.index:
            continue
        change = (ours.loc[name] - ours.loc[reference]).dropna(how="all")
        if len(change) < 2:
            continue
        half = stats.t.ppf((1 + coverage) / 2, len(change) - 1) * change.std(ddof=1) / np.sqrt(len(change))
        cells = {
            COLUMNS[column]: f"{mean:+.3f} [{mean - half[column]:+.3f}, {mean + half[column]:+.3f}]"
            for column, mean in change.mean().items()
        }
        rows.append({f"minus {reference}": name, "seeds": len(change)} | cells)
    return pd.DataFrame(rows)


def to_markdown(table: pd.DataFrame) -> str:
    """The table in GitHub's Markdown."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


class Leaderboard(Callback):
    """Hydra callback: writes ``leaderboard.csv`` (runs) and ``leaderboard.md`` (means) when a sweep ends."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Collects what the jobs left; a sweep in which no job finished leaves no table."""
        folder = Path(config.hydra.sweep.dir)
        runs = read_runs(folder)
        if runs.empty:
            return
        table = summarize(runs)
        runs.to_csv(folder / "leaderboard.csv", index=False)
        (folder / "leaderboard.md").write_text(to_markdown(table))
        shown = Table(title=f"leaderboard, best validation R@5 first (mean ± sd over seeds): {folder}")
        for column in table.columns:
            shown.add_column(column)
        for row in table.itertuples(index=False):
            shown.add_row(*map(str, row))
        Console(width=max(Console().width, 150)).print(shown)
