"""Run folders on the same test images: which is better, how sure is that, and what could this test set have shown?"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from siglip_med.core.errors import UserError
from siglip_med.core.provenance import sentence
from siglip_med.metrics import (
    KEY_METRICS,
    LOWER_IS_BETTER,
    RESAMPLED_METRICS,
    Bootstrap,
    PairedResult,
    Predictions,
    headline_metrics,
    table_label,
)
from siglip_med.report.differences import PREDICTIONS, differences
from siglip_med.report.leaderboard_page import settings_section
from siglip_med.report.page import Figure, Page, Section, Table, write_page
from siglip_med.report.plots.comparisons import differences_figure
from siglip_med.report.plots.style import to_png

NAME = "comparison"


def compare_runs(folders: Sequence[Path], output: Path, bootstrap: Bootstrap) -> tuple[Path, Table]:
    """Writes ``comparison.html``, ``.md`` and ``.json``; the last run folder is what the others are held against.

    Returns:
        Path of the HTML page, and its table of differences.

    Raises:
        UserError: a folder is missing or holds no predictions, or the runs were not judged on the same images,
            conditions and labels.
    """
    for folder in folders:
        if not (folder / PREDICTIONS / "test").is_dir():
            raise UserError(f"compare: {folder} holds no {PREDICTIONS}/test; give the folders of finished runs")
    tests = [Predictions.load(folder / PREDICTIONS / "test") for folder in folders]
    joint = [" models: " in str(test.meta.get("scores", "")) for test in tests]  # of `join_predictions`
    names = _short_names(folders, joint)
    conditions, last = len(tests[-1].conditions), names[-1]
    rows = [
        {"run": os.path.relpath(folder, output), "name": name, "setting": name, "seed": 0, "conditions": conditions}
        | {f"tuned/test/{metric}": value for metric, value in headline_metrics(test).items()}
        for folder, name, test in zip(folders, names, tests, strict=True)
    ]
    runs = pd.DataFrame(rows)
    headings = {metric: table_label(metric, conditions) for metric in RESAMPLED_METRICS}
    read = dict(zip(runs["run"], tests, strict=True)).__getitem__
    against = differences(runs, read, last, bootstrap, headings, strict=True)
    intervals = {
        run: {name: vars(one) for name, one in bootstrap.intervals(test, KEY_METRICS).items()}
        for run, test in zip(runs["run"], tests, strict=True)
    }
    sections = [settings_section(runs, intervals.__getitem__, bootstrap.coverage), against]
    if len(folders) == 2:
        sections.append(_first_predictions(names, tests, against))
    lead = (
        f"{len(folders)} runs on {tests[-1].size}. The seed of training is not resampled: repeat a comparison over "
        "seeds before believing it."
    )
    facts = {"held against": last, "intervals": f"{bootstrap.coverage:.0%}, paired bootstrap over cases"}
    title, notice = f"{', '.join(names[:-1])} against {last}", sentence(tests[-1].provenance)
    page = Page(title, lead, facts, (), tuple(sections), notice)
    return write_page(page, output, NAME), against.tables[0]


def _first_predictions(names: Sequence[str], tests: Sequence[Predictions], against: Section) -> Section:
    """Image by image: who is right where the other is wrong; and the differences as a picture."""
    (a, b), (right_a, right_b) = names, map(_right_by_image, tests)
    pairs = [(right, right_b[image]) for image, right in right_a.items()]
    counts = {"both": (True, True), "first": (True, False), "second": (False, True), "neither": (False, False)}
    found = {who: pairs.count(pair) for who, pair in counts.items()}
    said = ("both runs right", f"only {a} right", f"only {b} right", "both wrong")
    results = {
        metric: PairedResult(**{key: value for key, value in one.items() if key != "seeds"})
        for metric, one in against.data[a].items()
        if np.isfinite(one["low"])
    }
    labels = {metric: table_label(metric, len(tests[0].conditions)) for metric in results}
    better = {labels[metric]: -1 if metric in LOWER_IS_BETTER else 1 for metric in results}
    drawn = differences_figure({labels[metric]: result for metric, result in results.items()}, better, (a, b))
    alt = f"Differences between {a} and {b} with intervals."
    figure = Figure("differences", to_png(drawn), alt, f"Right of 0: {a} is better. Gray: the interval holds 0.", 640)
    table = Table("First predictions", ("", "images"), tuple(zip(said, map(str, found.values()), strict=True)))
    return Section("first_predictions", "First predictions, image by image", (), (table,), (figure,), data=found)


def _right_by_image(predictions: Predictions) -> dict[str, bool]:
    right = predictions.positive[np.arange(len(predictions)), predictions.first]
    return dict(zip(predictions.frame["image"].astype(str), right.tolist(), strict=True))


def _short_names(folders: Sequence[Path], joint: Sequence[bool]) -> list[str]:
    """The folders' names, with as many parents as it takes to tell them apart; the only joint one is the ensemble."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            one = sum(joint) == 1
            return ["ensemble" if one and of_many else name for name, of_many in zip(names, joint, strict=True)]
    raise UserError(f"compare: {folders[0]} is given twice; give different run folders")
