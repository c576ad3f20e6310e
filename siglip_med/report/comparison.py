"""Two runs on the same test images: which is better, how sure is that, and what could this test set have shown?"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table as ScreenTable

from siglip_med.core.errors import UserError
from siglip_med.metrics import (
    LOWER_IS_BETTER,
    PairedResult,
    Predictions,
    condition_order,
    headline_metrics,
    metric_label,
    table_label,
)
from siglip_med.report import Figure, Page, ReportSettings, Section, Table, write_page
from siglip_med.report.numbers import number, p_value
from siglip_med.report.plots import differences_figure, to_png

COMPARISON_NAME = "comparison"
PREDICTIONS = Path("predictions")
_COLUMNS = ("difference", "interval", "p", "smallest difference that shows", "verdict")


@dataclass(frozen=True)
class Comparison:
    """Run a against run b on the same images.

    Attributes:
        names: of the two runs.
        values: metric -> value of a and of b.
        results: metric -> a minus b.
        both_right: images whose first prediction is listed in both runs; ``only_a``, ``only_b``, ``neither`` likewise.
        images: N.
        cases: G, the units that are resampled.
        conditions: C.
        coverage: of the intervals; 1 - coverage is the error rate of the test.
    """

    names: tuple[str, str]
    values: Mapping[str, tuple[float, float]]
    results: Mapping[str, PairedResult]
    both_right: int
    only_a: int
    only_b: int
    neither: int
    images: int
    cases: int
    conditions: int
    coverage: float

    def verdict(self, metric: str) -> str:
        """The better run, where the interval of the difference leaves 0 out; else that no difference shows."""
        result = self.results[metric]
        if not np.isfinite(result.low) or result.low <= 0 <= result.high:
            return "no difference shown"
        better = 0 if (result.difference > 0) != (metric in LOWER_IS_BETTER) else 1
        return f"{self.names[better]} better"

    def row(self, metric: str) -> tuple[str, ...]:
        """Cells for people: metric, both values, and `_COLUMNS`."""
        result, (a, b) = self.results[metric], self.values[metric]
        label = table_label(metric, self.conditions)
        known = np.isfinite(result.low)
        return (
            label,
            number(a),
            number(b),
            f"{result.difference:+.3f}" if np.isfinite(result.difference) else number(None),
            f"[{result.low:+.3f}, {result.high:+.3f}]" if known else "",
            p_value(result.p_value),
            number(result.minimum_detectable_difference),
            self.verdict(metric),
        )

    def screen_table(self) -> ScreenTable:
        """The comparison for a terminal."""
        table = ScreenTable(
            title=f"{self.names[0]} against {self.names[1]}: {self.images} images of {self.cases} cases"
        )
        for position, heading in enumerate(("", *self.names, *_COLUMNS)):
            table.add_column(heading, justify="left" if position in (0, 7) else "right", overflow="fold")
        for metric in self.results:
            table.add_row(*self.row(metric))
        return table


def compare_predictions(a: Predictions, b: Predictions, names: tuple[str, str], settings: ReportSettings) -> Comparison:
    """Judges two runs on the same resampled cases.

    Args:
        a: test predictions of one run.
        b: of the other, over the same images, conditions and labels.
        names: of the two runs.
        settings: repetitions, coverage and seed of the bootstrap.

    Raises:
        UserError: the runs were not judged on the same images, conditions and labels.
    """
    results = settings.resampling.paired([(a, b)])
    of_a, of_b = headline_metrics(a), headline_metrics(b)
    # b minus its difference and not its own value: both are then judged with the D of a
    values = {name: (of_a[name], of_a[name] - result.difference) for name, result in results.items()}
    values = {name: pair if np.isfinite(pair[1]) else (of_a[name], of_b[name]) for name, pair in values.items()}
    right_a, right_b = _right_by_image(a), _right_by_image(b)
    pairs = [(right, right_b[image]) for image, right in right_a.items()]
    return Comparison(
        names=names,
        values=values,
        results=results,
        both_right=pairs.count((True, True)),
        only_a=pairs.count((True, False)),
        only_b=pairs.count((False, True)),
        neither=pairs.count((False, False)),
        images=len(a),
        cases=len(np.unique(a.cases)),
        conditions=len(a.conditions),
        coverage=settings.coverage,
    )


def compare_runs(run_a: Path, run_b: Path, settings: ReportSettings) -> Comparison:
    """The same for two run folders that hold ``predictions/test``.

    Raises:
        UserError: a folder is missing or holds no predictions, or the runs do not match.
    """
    for run in (run_a, run_b):
        if not (run / PREDICTIONS / "test").is_dir():
            raise UserError(f"compare: {run} holds no predictions/test; give the folders of two finished runs")
    a, b = (Predictions.load(run / PREDICTIONS / "test") for run in (run_a, run_b))
    return compare_predictions(a, b, _short_names(run_a, run_b), settings)


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Writes ``comparison.html`` (self-contained), ``comparison.md`` with ``figures/``, and ``comparison.json``.

    Returns:
        Path of the HTML page.
    """
    c, (a, b) = comparison, comparison.names
    labels = {metric: metric_label(metric, c.conditions) for metric in c.results}
    drawn = {labels[metric]: result for metric, result in c.results.items() if np.isfinite(result.low)}
    better = {labels[metric]: -1 if metric in LOWER_IS_BETTER else 1 for metric in c.results}
    agreement = (
        ("both runs right", str(c.both_right)),
        (f"only {a} right", str(c.only_a)),
        (f"only {b} right", str(c.only_b)),
        ("both wrong", str(c.neither)),
    )
    section = Section(
        key="comparison",
        title="Every metric",
        paragraphs=(
            "Both runs are judged on the same resampled cases, so what makes a case hard for both cancels. The "
            f"interval holds the true difference in {c.coverage:.0%} of such test sets; the p-value is "
            "two-sided and not corrected for the number of metrics: choose the one that matters before looking."
            "",
            "The smallest difference that shows is what this test set, with these two runs, would call "
            "significant four times in five. A smaller true difference can hide here: no difference shown is "
            "not no difference. The seed of training is not resampled: repeat a comparison over seeds before "
            "believing it.",
        ),
        figures=(
            Figure(
                "differences",
                to_png(differences_figure(drawn, better, c.names)),
                f"Differences between {a} and {b} with intervals.",
                f"Right of 0: {a} is better. Gray: the interval holds 0.",
                640,
            ),
        ),
        tables=(
            Table(
                "Difference, first run minus second (↓: lower is better)",
                ("", *c.names, *_COLUMNS),
                tuple(map(c.row, c.results)),
            ),
            Table("First predictions, image by image", ("", "images"), agreement),
        ),
        data={
            "names": c.names,
            "values": dict(c.values),
            "results": {metric: asdict(result) for metric, result in c.results.items()},
            "first_predictions": {"both": c.both_right, a: c.only_a, b: c.only_b, "neither": c.neither},
        },
    )
    verdicts = [c.verdict(metric) for metric in c.results]
    better_a, better_b = verdicts.count(f"{a} better"), verdicts.count(f"{b} better")
    lead = (
        f"On {c.images:,} images of {c.cases:,} cases, {a} is better on {better_a} of {len(verdicts)} metrics "
        f"and {b} on {better_b}; the others show no difference. The first prediction of {a} is right on {c.only_a} "
        f"images where {b} is wrong, and the other way round on {c.only_b}."
    )
    facts = {"first run": a, "second run": b, "intervals": f"{c.coverage:.0%}, paired bootstrap over cases"}
    return write_page(Page(f"{a} against {b}", lead, facts, (), (section,)), folder, COMPARISON_NAME)


def _right_by_image(predictions: Predictions) -> dict[str, bool]:
    first = condition_order(predictions.logits, predictions.positive)[:, 0]
    right = predictions.positive[np.arange(len(predictions)), first]
    return dict(zip(predictions.frame["image"].astype(str), right.tolist(), strict=True))


def _short_names(a: Path, b: Path) -> tuple[str, str]:
    """The folders' names, with as many parents as it takes to tell them apart."""
    parts_a, parts_b = a.resolve().parts, b.resolve().parts
    for length in range(1, max(len(parts_a), len(parts_b)) + 1):
        names = "/".join(parts_a[-length:]), "/".join(parts_b[-length:])
        if names[0] != names[1]:
            return names
    raise UserError(f"compare: both runs are {a}; give two different run folders")
