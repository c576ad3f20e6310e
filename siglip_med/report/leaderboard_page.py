"""The leaderboard as a page: settings with intervals, paired differences from a baseline, every job, what failed."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from pydantic import Field
from rich.table import Table as ScreenTable

from siglip_med.core.files import write_text
from siglip_med.core.outside import Console, frame_csv
from siglip_med.core.ranges import Coverage
from siglip_med.metrics import BASELINES, CHOOSING, Bootstrap, Interval, metric_label
from siglip_med.report import Link, Page, Section, Table, write_page
from siglip_med.report.differences import differences, tests_of
from siglip_med.report.leaderboard import RANKED_BY, SEEDS, columns, ranked, read_runs, student_interval, summarize
from siglip_med.report.page import NOT_DEFINED, counted, number, with_range
from siglip_med.sweeps import JobRecord, differing, read_records

NAME = "leaderboard"
OfRun = Callable[[str], Mapping[str, Any]]
"""From the ``run`` of a table to intervals of its test metrics, as ``metrics.json`` keeps them."""
_HOW = {"running": "interrupted", "finished": "finished", "failed": "failed"}


def write_leaderboard(folder: Path, runs: pd.DataFrame, baseline: str, bootstrap: Bootstrap) -> Path:
    """Writes ``leaderboard.html`` (self-contained), ``.md`` and ``.json`` into a sweep's folder."""
    records = read_records(folder)
    sections = []
    held_against = _setting_named(runs, baseline)
    if not runs.empty:
        sections.append(settings_section(runs, _stored(folder), bootstrap.coverage))
        known = None if held_against is None else differences(runs, tests_of(folder), held_against, bootstrap)
        sections.append(known or _nothing(runs, baseline))
    sections.append(_lost(records, folder))
    if not runs.empty:
        sections.append(_runs(runs, folder))
    counts = {how: sum(record.state == state for record in records) for state, how in _HOW.items()}
    said = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
    settings = 0 if runs.empty else runs["setting"].nunique()
    lead = (
        f"{counted(len(runs), 'run')} of {counted(settings, 'setting')}, best validation first. "
        "Validation chose each run's checkpoint and ranks the settings; the test split chose nothing."
    )
    facts = {
        "folder": folder.name,
        "jobs": said or "not recorded",
        "intervals": f"{bootstrap.coverage:.0%}",
        "baseline": held_against or f"{baseline} (no such run)",
    }
    facts["test split"] = "; ".join(_distinct(runs, "test_size")) or "not recorded"
    notice = " ".join(_distinct(runs, "notice"))
    return write_page(Page("Leaderboard", lead, facts, (), tuple(sections), notice), folder, NAME)


def _distinct(runs: pd.DataFrame, column: str) -> list[str]:
    """What the runs say there, each once."""
    return list(dict.fromkeys(runs[column].dropna().map(str))) if column in runs else []


def _setting_named(runs: pd.DataFrame, baseline: str) -> str | None:
    """The setting of that text, or else the only one of that name."""
    if runs.empty:
        return None
    known = runs[["name", "setting"]].drop_duplicates()
    if baseline in set(known["setting"]):
        return baseline
    named = known.loc[known["name"] == baseline, "setting"].tolist()
    return named[0] if len(named) == 1 else None


def settings_section(runs: pd.DataFrame, of_run: OfRun, coverage: float) -> Section:
    """One row per setting: its seeds, and the mean of each metric with its interval; then baselines that are known."""
    headings = columns(runs)
    rows, data = [], {}
    for setting in ranked(runs):
        group = runs[runs["setting"] == setting]
        cells = {column: _mean(group, column, of_run, coverage) for column in headings}
        seeds = group["seed"].nunique() if "seed" in group else len(group)
        rows.append((setting, str(seeds), *(_shown(group[column], cells[column]) for column in headings)))
        data[setting] = {
            column: dict(zip(("mean", "low", "high"), cell, strict=True)) for column, cell in cells.items()
        }
    best = ranked(runs)[0]
    beside = _baselines(runs[runs["setting"] == best], headings)
    return Section(
        "settings",
        "Every setting",
        (
            f"Mean over seeds. From {SEEDS} seeds on with its {coverage:.0%} Student interval over seeds, on the logit "
            "scale where a metric lies between 0 and 1; none where all seeds give the same. Two seeds have none: "
            "their values are in parentheses. A setting with one seed has the interval of that run over test cases, "
            "and none on validation: it says nothing of another seed.",
            *([f"Baselines, in the last rows, are those of {best}'s runs, without an interval."] if beside else []),
        ),
        (
            Table(
                f"Settings{', best validation first' * (RANKED_BY in headings)}; a click on a heading sorts",
                ("setting", "seeds", *headings.values()),
                (*rows, *beside),
                groups=_groups(headings, 2),
            ),
        ),
        data=data,
    )


def _groups(headings: dict[str, str], first: int) -> tuple[tuple[str, int], ...]:
    """The headings over the columns of a table, behind so many that have none."""
    validation = int(RANKED_BY in headings)
    groups = (("", first), ("validation", validation), ("test", len(headings) - validation))
    return tuple(group for group in groups if group[1])


def _baselines(group: pd.DataFrame, headings: dict[str, str]) -> list[tuple[str, ...]]:
    """Rows of what some runs were judged beside: the mean over them of what each has of the test split."""
    rows = []
    for key, words in BASELINES.items():
        places = [column.replace("tuned/test/", f"{key}/test/") for column in headings]
        known = [one in group and one not in headings for one in places]
        if any(known):
            means = (number(group[one].mean() if here else None) for one, here in zip(places, known, strict=True))
            rows.append((words, str(len(group)), *means))
    return rows


def _shown(values: pd.Series, cell: tuple[float, float, float]) -> str:
    """``0.704 [0.650, 0.752]``; of fewer seeds than an interval needs their values, in their order."""
    known = values.dropna()
    if not 1 < len(known) < SEEDS:
        return with_range(Interval(*cell))
    return f"{number(cell[0])} ({', '.join(map(number, known))})"


def _mean(group: pd.DataFrame, column: str, of_run: OfRun, coverage: float) -> tuple[float, float, float]:
    mean, low, high = student_interval(group[column].dropna().tolist(), coverage, column)
    if np.isnan(mean) or len(group) > 1 or not column.startswith("tuned/test/"):
        return mean, low, high
    ends = of_run(str(group["run"].iloc[0])).get(column.removeprefix("tuned/test/")) or {}
    low, high = (np.nan if ends.get(end) is None else float(ends[end]) for end in ("low", "high"))
    return mean, low, high


def _stored(folder: Path) -> OfRun:
    """The intervals that a run's ``metrics.json`` holds; nothing of derived answers, which are predictions alone."""

    @cache
    def of_run(run: str) -> dict[str, Any]:
        path = folder / run / "metrics.json"
        return dict(json.loads(path.read_text()).get("test_intervals", {})) if path.is_file() else {}

    return of_run


def _nothing(runs: pd.DataFrame, name: str) -> Section:
    text = (
        f"No setting is called {name}, so nothing is held against it. Give one with "
        f"hydra.callbacks.leaderboard.baseline=…: there is {', '.join(sorted(set(runs['setting'])))}."
    )
    return Section("differences", f"Differences from {name}", (text,))


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
            record.reason or "stopped before its end; the same command with this folder resumes it",
            Link("log", record.log) if record.log and (folder / record.log).is_file() else NOT_DEFINED,
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
            str(row.get("seed", NOT_DEFINED)),
            *(number(float(row[column])) for column in headings),
        )
        for row in runs.to_dict("records")
    )
    text = "A run leads to its report where siglip-med-evaluate has made one, and to its folder elsewhere."
    heads = ("run", "setting", "seed", *headings.values())
    table = Table("Runs; a click on a heading sorts", heads, rows, 2, groups=_groups(headings, 3))
    return Section("runs", "Every run", (text,), (table,))


def _report_of(folder: Path, run: str) -> str:
    report = f"{run}/report/report.html"
    return report if (folder / report).is_file() else f"{run}/"


class Leaderboard(Callback):
    """Hydra callback: ``leaderboard.csv`` (runs), ``.html``, ``.md`` and ``.json`` of a sweep, when it ends."""

    def __init__(
        self,
        baseline: str = "baseline",
        bootstrap: Annotated[int, Field(gt=0, le=1_000_000)] = 1000,
        coverage: Coverage = 0.95,
    ) -> None:
        """Knows what to compare with.

        Args:
            baseline: name or setting that the others are held against.
            bootstrap: resamples of the cases.
            coverage: of the intervals.
        """
        self.baseline, self.bootstrap = baseline, Bootstrap(bootstrap, coverage=coverage)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Collects what the jobs left; a sweep without any job leaves no table."""
        folder = Path(config.hydra.sweep.dir)
        runs = read_runs(folder)
        if runs.empty and not read_records(folder):
            return
        if not runs.empty:
            write_text(folder / "leaderboard.csv", frame_csv(runs))
        page = write_leaderboard(folder, runs, self.baseline, self.bootstrap)
        console = Console(width=max(Console().width, 150))
        if not runs.empty:
            table = summarize(runs)
            best = metric_label(CHOOSING, short=True)
            shown = ScreenTable(title=f"leaderboard, best validation {best} first (mean ± sd over seeds): {folder}")
            for column in table.columns:
                shown.add_column(column)
            for row in table.itertuples(index=False):
                shown.add_row(*map(str, row))
            console.print(shown)
        console.print(f"page: {page}", soft_wrap=True, highlight=False)
