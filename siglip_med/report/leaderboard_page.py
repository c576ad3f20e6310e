"""The leaderboard as a page: settings with intervals, paired differences from a baseline, every job, what failed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table as ScreenTable

from siglip_med.core.errors import UserError
from siglip_med.core.files import write_text
from siglip_med.metrics import (
    CHOOSING,
    LOWER_IS_BETTER,
    RESAMPLED_METRICS,
    PairedResult,
    Predictions,
    metric_label,
    paired_bootstrap_over_seeds,
)
from siglip_med.report import Link, Page, Section, Table, write_page
from siglip_med.report.leaderboard import (
    RANKED_BY,
    columns,
    over_seeds,
    read_runs,
    student_interval,
    summarize,
)
from siglip_med.report.numbers import number, p_value
from siglip_med.sweeps import JobRecord, differing, read_records

NAME = "leaderboard"
_DASH = "–"
_HOW = {"running": "cut", "finished": "finished", "failed": "failed"}


def write_leaderboard(folder: Path, runs: pd.DataFrame, baseline: str, bootstrap: int, coverage: float) -> Path:
    """Writes ``leaderboard.html`` (self-contained), ``.md`` and ``.json`` into a sweep's folder.

    Args:
        folder: of the sweep.
        runs: from `read_runs`; may be empty.
        baseline: name or setting that the others are held against.
        bootstrap: resamples of the cases.
        coverage: of the intervals.

    Returns:
        Path of the HTML page.
    """
    records = read_records(folder)
    sections = []
    held_against = _setting_named(runs, baseline)
    if not runs.empty:
        sections.append(_settings(runs, folder, coverage))
        sections.append(_differences(runs, folder, baseline, held_against, bootstrap, coverage))
    sections.append(_lost(records, folder))
    if not runs.empty:
        sections.append(_runs(runs, folder))
    counts = {how: sum(record.state == state for record in records) for state, how in _HOW.items()}
    said = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
    settings = 0 if runs.empty else runs["setting"].nunique()
    lead = (
        f"{len(runs)} runs of {settings} settings, best validation first. Validation chose each run's checkpoint and "
        "ranks the settings; the test split chose nothing."
    )
    facts = {
        "folder": folder.name,
        "jobs": said or "not recorded",
        "intervals": f"{coverage:.0%}",
        "baseline": held_against or f"{baseline} (no such run)",
    }
    return write_page(Page("Leaderboard", lead, facts, (), tuple(sections)), folder, NAME)


def _setting_named(runs: pd.DataFrame, baseline: str) -> str | None:
    """The setting of that text, or else the only one of that name."""
    if runs.empty:
        return None
    known = runs[["name", "setting"]].drop_duplicates()
    if baseline in set(known["setting"]):
        return baseline
    named = known.loc[known["name"] == baseline, "setting"].tolist()
    return named[0] if len(named) == 1 else None


def _settings(runs: pd.DataFrame, folder: Path, coverage: float) -> Section:
    """One row a setting: its seeds, and the mean of each metric with its interval."""
    headings = columns(runs)
    rows, data = [], {}
    for setting in ranked(runs):
        group = runs[runs["setting"] == setting]
        cells = {column: _mean(group, column, folder, coverage) for column in headings}
        rows.append((setting, _plural(group), *(_interval_cell(*cells[column]) for column in headings)))
        data[setting] = {
            column: dict(zip(("mean", "low", "high"), cell, strict=True)) for column, cell in cells.items()
        }
    validation = int(RANKED_BY in headings)
    groups = (("", 2), ("validation", validation), ("test", len(headings) - validation))
    return Section(
        "settings",
        "Every setting",
        (
            f"Mean over seeds with its {coverage:.0%} Student interval. A setting with one seed has the interval of "
            "that run over test cases, and none on validation: it says nothing of another seed.",
        ),
        (
            Table(
                "Settings, best validation first; a click on a heading sorts",
                ("setting", "seeds", *headings.values()),
                tuple(rows),
                groups=tuple(group for group in groups if group[1]),
            ),
        ),
        data=data,
    )


def ranked(runs: pd.DataFrame) -> list[str]:
    """The settings, best validation first; in their order where there is none."""
    groups = runs.groupby("setting", sort=False)
    if RANKED_BY not in runs:
        return [str(setting) for setting in groups.groups]
    return list(groups[RANKED_BY].mean().sort_values(ascending=CHOOSING in LOWER_IS_BETTER, kind="stable").index)


def _mean(group: pd.DataFrame, column: str, folder: Path, coverage: float) -> tuple[float, float, float]:
    mean, low, high = student_interval(group[column].dropna().tolist(), coverage)
    if np.isnan(mean) or np.isfinite(low):
        return (mean, low, high)
    metric = column.removeprefix("tuned/test/")
    path = folder / str(group["run"].iloc[0]) / "metrics.json"
    known = json.loads(path.read_text()).get("test_intervals", {}).get(metric) if metric != column else None
    bounds = [np.nan if known is None or known.get(end) is None else float(known[end]) for end in ("low", "high")]
    return (mean, bounds[0], bounds[1])


def _interval_cell(mean: float, low: float, high: float) -> str:
    return number(mean) + (f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) and np.isfinite(high) else "")


def _plural(group: pd.DataFrame) -> str:
    return str(group["seed"].nunique() if "seed" in group else len(group))


def _differences(
    runs: pd.DataFrame, folder: Path, name: str, baseline: str | None, bootstrap: int, coverage: float
) -> Section:
    """Each setting minus the baseline, paired by seed and test case."""
    title = f"Differences from {baseline or name}"
    if baseline is None:
        known = ", ".join(sorted(set(runs["setting"])))
        text = (
            f"No setting is called {name}, so nothing is held against it. Give one with "
            f"hydra.callbacks.leaderboard.baseline=…: there is {known}."
        )
        return Section("differences", title, (text,))
    headings = {column: heading for column, heading in columns(runs).items() if column != RANKED_BY}
    metrics = [column.removeprefix("tuned/test/") for column in headings]
    metrics = [metric for metric in metrics if metric in RESAMPLED_METRICS]
    rows, left_out, data = [], [], {}
    for setting in ranked(runs):
        if setting == baseline:
            continue
        try:
            seeds, results = paired(runs, folder, setting, baseline, metrics, bootstrap, coverage)
        except UserError as error:
            left_out.append(f"{setting}: {error}")
            continue
        of_seeds = over_seeds(runs, setting, baseline, coverage)
        for metric, result in results.items():
            _, low, high = of_seeds.get(metric, (np.nan,) * 3)
            rows.append(
                (
                    setting,
                    headings[f"tuned/test/{metric}"],
                    str(seeds),
                    f"{result.difference:+.3f}" if np.isfinite(result.difference) else _DASH,
                    f"[{result.low:+.3f}, {result.high:+.3f}]" if np.isfinite(result.low) else _DASH,
                    p_value(result.p_value),
                    f"[{low:+.3f}, {high:+.3f}]" if np.isfinite(low) else _DASH,
                    _verdict(result, metric),
                )
            )
        data[setting] = {
            metric: {"difference": r.difference, "low": r.low, "high": r.high, "p_value": r.p_value, "seeds": seeds}
            for metric, r in results.items()
        }
    paragraphs = [
        f"Test split, setting minus {baseline}, mean over the seeds that both have. Over cases: the seeds stay as they "
        f"are and their test cases are drawn again {bootstrap:,} times, the same for both runs of a seed. Over seeds: "
        "the Student interval of the seeds' differences, from two seeds on; it holds what another seed would change.",
        "The p-values are two-sided and not corrected for the number of settings and metrics.",
        *(f"Left out: {line}." for line in left_out),
    ]
    heading = ("setting", "metric", "seeds", "difference", "over cases", "p", "over seeds", "verdict over cases")
    table = Table(f"Differences from {baseline}; a click on a heading sorts", heading, tuple(rows), 2)
    return Section("differences", title, tuple(paragraphs), (table,) if rows else (), data=data)


def paired(
    runs: pd.DataFrame,
    folder: Path,
    setting: str,
    baseline: str,
    metrics: Sequence[str],
    bootstrap: int,
    coverage: float,
) -> tuple[int, Mapping[str, PairedResult]]:
    """Number of shared seeds, and metric -> setting minus baseline over the test cases of those seeds.

    Args:
        runs: from `read_runs`.
        folder: of the sweep.
        setting: that is judged.
        baseline: that is subtracted.
        metrics: names among `RESAMPLED_METRICS`.
        bootstrap: resamples.
        coverage: of the intervals.

    Raises:
        UserError: they share no seed, predictions are missing, or the runs were not judged on the same images.
    """
    ours, theirs = (_by_seed(runs, one) for one in (setting, baseline))
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise UserError(f"it shares no seed with {baseline}")
    pairs = []
    for seed in shared:
        places = [folder / run / "predictions" / "test" for run in (ours[seed], theirs[seed])]
        for place in places:
            if not place.is_dir():
                raise UserError(f"{place.relative_to(folder)} is missing")
        pairs.append((Predictions.load(places[0]), Predictions.load(places[1])))
    return len(shared), paired_bootstrap_over_seeds(pairs, metrics, bootstrap, 0, coverage)


def _by_seed(runs: pd.DataFrame, setting: str) -> dict[int, str]:
    group = runs[runs["setting"] == setting]
    if group["seed"].duplicated().any():
        seed = group.loc[group["seed"].duplicated(), "seed"].iloc[0]
        raise UserError(f"{setting} has several runs of seed {seed}")
    return dict(zip(group["seed"].astype(int), group["run"].astype(str), strict=True))


def _verdict(result: PairedResult, metric: str) -> str:
    if not np.isfinite(result.low) or result.low <= 0 <= result.high:
        return "no difference shown"
    return "better" if (result.difference > 0) != (metric in LOWER_IS_BETTER) else "worse"


def _lost(records: Sequence[JobRecord], folder: Path) -> Section:
    """Jobs that gave no result, with their reasons."""
    lost = [
        (record, words)
        for record, words in zip(records, differing([record.overrides for record in records]), strict=True)
        if record.state != "finished"
    ]
    if not lost:
        return Section("jobs", "Jobs without a result", ("None.",))
    rows = tuple(
        (
            _HOW[record.state],
            " ".join(words),
            record.reason or "stopped before its end; the same command with this folder goes on with it",
            Link("log", record.log) if record.log and (folder / record.log).is_file() else _DASH,
        )
        for record, words in lost
    )
    table = Table("Failed and cut jobs", ("end", "job", "reason", "log"), rows, 4)
    return Section("jobs", "Jobs without a result", tables=(table,))


def _runs(runs: pd.DataFrame, folder: Path) -> Section:
    headings = columns(runs)
    rows = tuple(
        (
            Link(str(row["run"]), _report_of(folder, str(row["run"]))),
            str(row["setting"]),
            str(row.get("seed", _DASH)),
            *(number(float(row[column])) for column in headings),
        )
        for row in runs.to_dict("records")
    )
    validation = int(RANKED_BY in headings)
    groups = (("", 3), ("validation", validation), ("test", len(headings) - validation))
    text = "A run leads to its report where `evaluate` has made one, and to its folder elsewhere."
    table = Table(
        "Runs; a click on a heading sorts",
        ("run", "setting", "seed", *headings.values()),
        rows,
        2,
        groups=tuple(group for group in groups if group[1]),
    )
    return Section("runs", "Every run", (text,), (table,))


def _report_of(folder: Path, run: str) -> str:
    report = f"{run}/report/report.html"
    return report if (folder / report).is_file() else f"{run}/"


class Leaderboard(Callback):
    """Hydra callback: the runs, their means and the page of a sweep, when it ends.

    It writes ``leaderboard.csv`` (runs), and ``leaderboard.html``, ``.md`` and ``.json``.
    """

    def __init__(
        self,
        baseline: str = "baseline",
        bootstrap: Annotated[int, Field(gt=0, le=1_000_000)] = 1000,
        coverage: Annotated[float, Field(gt=0, lt=1)] = 0.95,
    ) -> None:
        """Knows what to compare with.

        Args:
            baseline: name or setting that the others are held against.
            bootstrap: resamples of the cases.
            coverage: of the intervals.
        """
        self.baseline, self.bootstrap, self.coverage = baseline, bootstrap, coverage

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Collects what the jobs left; a sweep without any job leaves no table."""
        folder = Path(config.hydra.sweep.dir)
        runs = read_runs(folder)
        if runs.empty and not read_records(folder):
            return
        if not runs.empty:
            write_text(folder / "leaderboard.csv", runs.to_csv(index=False))
        page = write_leaderboard(folder, runs, self.baseline, self.bootstrap, self.coverage)
        console = Console(width=max(Console().width, 150))
        if not runs.empty:
            table = summarize(runs)
            best = metric_label(CHOOSING, short=True)
            shown = ScreenTable(title=f"leaderboard, best validation {best} first (mean ± sd over seeds): {folder}")
            for column in table.columns:
                shown.add_column(column)
            for row in table.itertuples(index=False):
                shown.add_row(*(escape(str(cell)) for cell in row))
            console.print(shown)
        console.print(f"page: {page}", soft_wrap=True, highlight=False, markup=False)
