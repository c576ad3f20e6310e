"""Do the confidences mean what they say, and how long must a differential be?"""

import numpy as np

from siglip_med.core.ranges import UNFAMILIAR
from siglip_med.metrics import (
    IN_UNFAMILIAR,
    calibration_metrics,
    conformal_report,
    fit_conformal,
    reliability_table,
    table_label,
    without_unfamiliar,
)
from siglip_med.report.evidence import RUN, ZERO_SHOT, Evidence
from siglip_med.report.page import Figure, Section, Table, number, percent, with_range
from siglip_med.report.plots.calibration import reliability_figure, set_size_figure
from siglip_med.report.plots.style import to_png

_METRICS = {
    "ece": "ECE, all (image, condition) pairs",
    "ece_classwise": "ECE, mean of the conditions",
    "ece_top1": "ECE of the first prediction",
    "brier": "Brier score",
    "log_loss": "log loss (nats)",
}
_NOTHING = 5e-4
"""A temperature this near to 1, and a bias this near to 0, print as such."""
_COVERAGES = (0.8, 0.9, 0.95)


def calibration_section(evidence: Evidence) -> Section:
    """Reliability before and after calibration by a temperature and a bias of validation, where that changes any."""
    fit, series = evidence.calibration, {RUN: evidence.test}
    calibrated = max(abs(fit.temperature - 1), abs(fit.bias)) < _NOTHING
    if not calibrated:
        series |= {"calibrated on validation": fit.apply(evidence.test)}
    if evidence.zero_shot is not None:
        series = {ZERO_SHOT: evidence.zero_shot} | series
    values = {name: calibration_metrics(predictions) for name, predictions in series.items()}
    rows = tuple((label, *(number(values[name][metric], 4) for name in series)) for metric, label in _METRICS.items())
    tables = {name: reliability_table(predictions) for name, predictions in series.items() if name != ZERO_SHOT}
    return Section(
        key="calibration",
        title="Are the confidences true?",
        paragraphs=(
            "A confidence is the sigmoid of a logit: the model's probability that the condition is positive. "
            "Most pairs of an image and a condition are easy negatives, which flatters the first line; the "
            "third is what a reader of the first prediction feels.",
            "The logits are calibrated on the validation split already: calibrating them again changes nothing."
            if calibrated
            else f"Calibration divides the logits by {fit.temperature:.3f} and adds {fit.bias:+.3f}; it was fitted on "
            "the validation split and changes no ranking.",
        ),
        tables=(Table("Calibration (lower is better)", ("", *series), rows),),
        figures=(
            Figure(
                "reliability",
                to_png(reliability_figure(tables)),
                f"Reliability diagram: {' and '.join(tables)}.",
                "Below the diagonal the model is too sure. Hollow points stand for fewer than 20 pairs.",
                420,
            ),
        ),
        data={
            "temperature": fit.temperature,
            "bias": fit.bias,
            "metrics": values,
            "reliability": {name: table.to_dict("records") for name, table in tables.items()},
        },
    )


def prediction_sets_section(evidence: Evidence) -> Section:
    """Conformal differentials beside the fixed top 5."""
    test, settings = evidence.test, evidence.settings
    stated = sorted({*_COVERAGES, settings.set_coverage})
    rows, reports = [], {}
    for coverage in stated:
        rule = fit_conformal(evidence.val, coverage, temperature=evidence.calibration.temperature)
        report = conformal_report(rule, test)
        reports[f"{coverage:g}"] = report | {"threshold": rule.threshold}
        sets = rule.sets(test)
        held = evidence.interval_of_mean((sets & test.positive).any(axis=1))
        realised = f"{percent(held.estimate)} [{percent(held.low)}, {percent(held.high)}]"
        others = [percent(report[f"coverage_{what}"]) for what in ("primary", "all")]
        sizes = number(report["mean_set_size"], 2), number(report["median_set_size"], 0), percent(report["empty_sets"])
        rows.append((f"sets, {coverage:.0%} stated", realised, *others, *sizes))
        if coverage == settings.set_coverage:
            drawn = sets
    reached = [percent(report[f"top5_coverage_{what}"]) for what in ("any", "primary", "all")]
    rows.append(("fixed top 5", *reached, number(report["top5_size"], 2), number(report["top5_size"], 0), percent(0.0)))
    figure = set_size_figure(
        drawn.sum(axis=1), (drawn & test.positive).any(axis=1), len(test.conditions), settings.set_coverage
    )
    columns = ("", "holds a positive condition", "holds the primary", "holds all", "mean size", "median", "empty")
    return Section(
        key="prediction_sets",
        title="Differentials with a stated coverage",
        paragraphs=(
            "A prediction set is as long as the image is hard: its length is chosen on the validation split so "
            "that, over images like those, the stated share of sets holds at least one positive condition (split "
            "conformal prediction). Compare its mean size with the fixed list of five at the coverage that the "
            "five reach.",
            f"The promise is for images like the {len(evidence.val):,} of the validation split "
            f"({len(np.unique(evidence.val.cases)):,} cases), on average, not for each kind of patient. The set of an "
            "unfamiliar photograph is all conditions.",
        ),
        tables=(Table("Coverage and size on the test split", columns, tuple(rows)),),
        figures=(
            Figure(
                "prediction_sets",
                to_png(figure),
                "How many images get how long a set.",
                f"Sets of {settings.set_coverage:.0%} stated coverage.",
                420,
            ),
        ),
        data=reports,
    )


def familiarity_section(evidence: Evidence) -> Section:
    """How many photographs are unlike those of training, and the metrics of the others."""
    test, conditions = evidence.test, len(evidence.test.conditions)
    values, said = without_unfamiliar(test)
    groups = {"all": test, "familiar": test.take(~test.unfamiliar), "unfamiliar": test.take(test.unfamiliar)}
    resampling = evidence.settings.resampling
    rows = tuple(
        (
            f"{name}: {group.size}",
            *(map(with_range, resampling.intervals(group, IN_UNFAMILIAR).values()) if len(group) else ()),
            *(number(None) for _ in IN_UNFAMILIAR if not len(group)),
        )
        for name, group in groups.items()
        if said
    )
    columns = ("", *(table_label(name, conditions) for name in IN_UNFAMILIAR))
    return Section(
        key="familiarity",
        title="Images unlike those of training",
        paragraphs=(
            *(said or ["Not known: the run is from before familiarity was; train it again"]),
            "Familiarity is a p-value against validation, by the distance to the nearest training image and the energy "
            f"of the logits. Below {UNFAMILIAR:g}, or with a fault (blank, dark, blurred, "
            "tiny) that validation hardly has, predict.py and the page say so in place of confidences.",
        ),
        tables=(Table("With and without them", columns, rows),) if rows else (),
        data=values,
    )
