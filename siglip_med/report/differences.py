"""Settings held against a baseline: paired by seed and test case, with what this test set could have shown."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from siglip_med.core.errors import UserError
from siglip_med.metrics import LOWER_IS_BETTER, RESAMPLED_METRICS, Bootstrap, PairedResult, Predictions
from siglip_med.report.leaderboard import SEEDS, columns, over_seeds, ranked
from siglip_med.report.page import NOT_DEFINED, Section, Table, bounds, number, p_value

PREDICTIONS = Path("predictions")
_HEADING = (
    "setting", "metric", "seeds", "setting's", "baseline's", "difference", "over cases", "p",
    "smallest difference that shows", "over seeds", "verdict over cases",
)  # fmt: skip


Tests = Callable[[str], Predictions]
"""From the ``run`` of a table to its predictions of the test split."""


def tests_of(folder: Path) -> Tests:
    """The test predictions of the runs in a folder, each read once; a UserError for a run without any."""

    @cache
    def load(run: str) -> Predictions:
        place = folder / run / PREDICTIONS / "test"
        if not place.is_dir():
            raise UserError(f"{run}/{PREDICTIONS}/test is missing")
        return Predictions.load(place)

    return load


def differences(
    runs: pd.DataFrame,
    tests: Tests,
    baseline: str,
    bootstrap: Bootstrap,
    headings: Mapping[str, str] | None = None,
    strict: bool = False,
) -> Section:
    """Each setting minus the baseline; what cannot be held against it is said, or with ``strict`` a UserError."""
    if headings is None:
        known = {column.removeprefix("tuned/test/"): heading for column, heading in columns(runs).items()}
        headings = {metric: heading for metric, heading in known.items() if metric in RESAMPLED_METRICS}
    rows, left_out, data = [], [], {}
    for setting in ranked(runs):
        if setting == baseline:
            continue
        try:
            seeds, values, results = paired(runs, tests, setting, baseline, list(headings), bootstrap)
        except UserError as error:
            if strict:
                raise
            left_out.append(f"{setting}: {error}")
            continue
        of_seeds = over_seeds(runs, setting, baseline, bootstrap.coverage)
        for metric, result in results.items():
            _, low, high = of_seeds.get(metric, (np.nan,) * 3)
            rows.append(
                (
                    setting,
                    headings[metric],
                    str(seeds),
                    *map(number, values[metric]),
                    f"{result.difference:+.3f}" if np.isfinite(result.difference) else NOT_DEFINED,
                    bounds(result.low, result.high, "+.3f") or NOT_DEFINED,
                    p_value(result.p_value),
                    number(result.minimum_detectable_difference),
                    bounds(low, high, "+.3f") or NOT_DEFINED,
                    verdict(result, metric),
                )
            )
        data[setting] = {metric: vars(result) | {"seeds": seeds} for metric, result in results.items()}
    paragraphs = (
        f"Test split, setting minus {baseline}, mean over the seeds that both have. Over cases: the seeds stay as they "
        f"are and their test cases are drawn again {bootstrap.repetitions:,} times, the same for both runs of a seed, "
        "so what makes a case hard for both cancels. Over seeds: the Student interval of the seeds' differences, from "
        f"{SEEDS} seeds on; it holds what another seed would change.",
        "The p-values are two-sided and not corrected for the number of settings and metrics: choose the metric that "
        "matters before looking.",
        "The smallest difference that shows is what this test set, with these runs, would call significant four times "
        "in five. A smaller true difference can hide here: no difference shown is not no difference.",
        *(f"Left out: {line}." for line in left_out),
    )
    several = any(row[2] != "1" for row in rows)
    shown = [place for place, heading in enumerate(_HEADING) if several or heading not in ("seeds", "over seeds")]
    narrowed = (tuple(row[place] for place in shown) for row in rows)
    heading = tuple(_HEADING[place] for place in shown)
    table = Table(f"Differences from {baseline}; a click on a heading sorts", heading, tuple(narrowed), 2)
    return Section("differences", f"Differences from {baseline}", paragraphs, (table,) if rows else (), data=data)


def paired(
    runs: pd.DataFrame, tests: Tests, setting: str, baseline: str, metrics: Sequence[str], bootstrap: Bootstrap
) -> tuple[int, dict[str, tuple[float, float]], dict[str, PairedResult]]:
    """A setting against the baseline over the test cases of the seeds that both have.

    Returns:
        Number of shared seeds; metric -> mean of the setting's runs, and that less the difference; metric -> setting
        minus baseline. Both of a pair are judged with the D of the setting's run.

    Raises:
        UserError: they share no seed, predictions are missing, or the runs were not judged on the same images.
    """
    ours, theirs = (_by_seed(runs, one) for one in (setting, baseline))
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise UserError(f"it shares no seed with {baseline}")
    results = bootstrap.paired([(tests(ours[seed]), tests(theirs[seed])) for seed in shared], metrics)
    group = runs[(runs["setting"] == setting) & runs["seed"].isin(shared)]
    means = {metric: float(group[f"tuned/test/{metric}"].mean()) for metric in metrics}
    values = {metric: (means[metric], means[metric] - results[metric].difference) for metric in metrics}
    return len(shared), values, results


def verdict(result: PairedResult, metric: str) -> str:
    """Whether the setting is better or worse, where the interval of the difference leaves 0 out."""
    if not np.isfinite(result.low) or result.low <= 0 <= result.high:
        return "no difference shown"
    return "better" if (result.difference > 0) != (metric in LOWER_IS_BETTER) else "worse"


def _by_seed(runs: pd.DataFrame, setting: str) -> dict[int, str]:
    group = runs[runs["setting"] == setting]
    if group["seed"].duplicated().any():
        seed = group.loc[group["seed"].duplicated(), "seed"].iloc[0]
        raise UserError(f"{setting} has several runs of seed {seed}")
    return dict(zip(group["seed"].astype(int), group["run"].astype(str), strict=True))
