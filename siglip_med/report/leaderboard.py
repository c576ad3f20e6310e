"""The table of a sweep: mean and standard deviation over seeds by setting, ranked by validation."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from scipy import stats
from scipy.special import expit, logit

from siglip_med.metrics import (
    CHOOSING,
    FAR_HALF,
    IN_CASES,
    IN_FAR_HALF,
    KEY_METRICS,
    LOWER_IS_BETTER,
    PER_CASE,
    RESAMPLED_METRICS,
    saturation,
    table_label,
)
from siglip_med.report.page import number
from siglip_med.report.summary import OWN
from siglip_med.sweeps import differing

RANKED_BY = f"tuned/val/{CHOOSING}"
_NO_SETTING = ("seed=", "hydra.", "launcher=", "sweep=", "resume=", "logger", "paths.")
SEEDS = 3
"""With fewer there is no interval over seeds: of two values it says that anything is possible."""
_SAME = 1e-9
_TEST = (*KEY_METRICS, "macro_f1", "spearman_text_d")


def columns(runs: pd.DataFrame) -> dict[str, str]:
    """Metric -> heading, validation's first; where a metric of the first K says nothing, its heading says so."""
    counts = runs["conditions"].dropna().astype(int) if "conditions" in runs else pd.Series(dtype=int)
    named = {RANKED_BY: f"val {_heading(CHOOSING, counts)}"}
    named |= {f"tuned/test/{name}": _heading(name, counts) for name in _TEST}
    for prefix, names, which in ((PER_CASE, IN_CASES, "per case"), (FAR_HALF, IN_FAR_HALF, "far half")):
        named |= {f"tuned/test/{prefix}{name}": f"{_heading(name, counts)}, {which}" for name in names}
    own = f"tuned/test/{OWN}"
    named |= {column: column.removeprefix(own) for column in map(str, runs) if column.startswith(own)}
    return {column: heading for column, heading in named.items() if column in runs}


def _heading(name: str, counts: pd.Series) -> str:
    if counts.empty:
        return table_label(name, short=True)
    some = "" if saturation(name, counts.max()) else saturation(name, counts.min())
    return table_label(name, counts.max(), short=True) + (f" (in some runs {some})" if some else "")


def read_runs(folder: Path) -> pd.DataFrame:
    """One row per finished run of a sweep folder.

    Returns:
        ``run``, ``name``, ``setting``, ``seed``, ``conditions``, ``test_size`` (images and their cases), ``notice``
        (what these are; neither in a run of an earlier version) and every metric. A setting is the name with the
        overrides in which the runs of the sweep differ, but for the seed.
    """
    rows, words = [], []
    for path in sorted(folder.glob("*/metrics.json")):
        result = json.loads(path.read_text())
        about = {key: result[key] for key in ("name", "seed", "conditions", "test_size", "notice") if key in result}
        rows.append({"run": path.parent.name} | about | result["metrics"])
        typed = path.parent / ".hydra" / "overrides.yaml"  # absent where the run was made without Hydra
        words.append([str(word) for word in OmegaConf.load(typed)] if typed.is_file() else [])
    if rows:
        for row, setting in zip(rows, settings_of([str(row["name"]) for row in rows], words), strict=True):
            row["setting"] = setting
    return pd.DataFrame(rows)


def settings_of(names: Sequence[str], overrides: Sequence[Sequence[str]]) -> list[str]:
    """What tells runs apart, but for their seed: the name, and the overrides that not all of them have."""
    kept = [[word for word in words if not word.lstrip("+").startswith(_NO_SETTING)] for words in overrides]
    chosen = differing(kept) if len({tuple(words) for words in kept}) > 1 else [[] for _ in kept]
    # an experiment that gives the name says nothing that the name does not
    experiments = [" ".join(word for word in words if word.startswith("experiment=")) for words in chosen]
    if len(set(zip(names, experiments, strict=True))) == len(set(names)):
        chosen = [[word for word in words if not word.startswith("experiment=")] for words in chosen]
    return [" ".join([name, *words]) for name, words in zip(names, chosen, strict=True)]


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample standard deviation by setting, best validation first; one seed has no deviation ("–")."""
    rows = []
    for setting in ranked(runs):
        group = runs[runs["setting"] == setting]
        row: dict[str, object] = {"setting": setting, "seeds": len(group)}
        for column, heading in columns(runs).items():
            row[heading] = f"{group[column].mean():.3f} ± {number(group[column].std(ddof=1))}"
        rows.append(row)
    return pd.DataFrame(rows)


def ranked(runs: pd.DataFrame) -> list[str]:
    """The settings, best validation first; in their order where there is none."""
    groups = runs.groupby("setting", sort=False)
    if RANKED_BY not in runs:
        return [str(setting) for setting in groups.groups]
    return list(groups[RANKED_BY].mean().sort_values(ascending=CHOOSING in LOWER_IS_BETTER, kind="stable").index)


def student_interval(values: Sequence[float], coverage: float, metric: str = "") -> tuple[float, float, float]:
    """Mean of a number over seeds, and both ends of its Student interval; NaN below `SEEDS` or if all are the same.

    Where ``metric``, a column of `read_runs`, lies between two numbers, so do the ends: the interval is that of the
    mean's logit, its standard error by the delta method.
    """
    known = np.asarray(values, dtype=float)
    mean = float(known.mean()) if len(known) else float("nan")
    if len(known) < SEEDS or np.ptp(known) < _SAME:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf((1 + coverage) / 2, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)))
    if (least := _least(metric)) is None:
        return mean, mean - half, mean + half
    share = (mean - least) / (1 - least)
    ends = expit(logit(share) + np.array([-half, half]) / (1 - least) / (share * (1 - share)))
    low, high = (least + (1 - least) * ends).tolist()
    return mean, low, high


def _least(metric: str) -> float | None:
    """The smallest value of a metric that is 1 at most; None of another."""
    name = metric.split("/", 2)[-1].removeprefix(FAR_HALF).removeprefix(PER_CASE)
    return -1.0 if name.startswith("spearman") else 0.0 if name in RESAMPLED_METRICS else None


def over_seeds(
    runs: pd.DataFrame, setting: str, baseline: str, coverage: float = 0.95
) -> dict[str, tuple[float, float, float]]:
    """What a setting gains over a baseline on the test split, paired by seed: a seed's runs share their split.

    Returns:
        Metric -> mean, low, high as of `student_interval`; nothing where they share fewer than `SEEDS`.
    """
    wanted = [column for column in columns(runs) if column != RANKED_BY]
    table = runs.set_index(["setting", "seed"])[wanted]
    change = pd.DataFrame(table.loc[setting] - table.loc[baseline]).dropna(how="all")
    if len(change) < SEEDS:
        return {}
    found = {column: student_interval(change[column].dropna().tolist(), coverage) for column in wanted}
    return {column.removeprefix("tuned/test/"): interval for column, interval in found.items()}
