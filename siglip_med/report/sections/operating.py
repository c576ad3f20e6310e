"""What is found and what is missed, where somebody has to decide: each condition, and malignant against the rest."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_curve

from siglip_med.metrics import (
    REACHED,
    RISKS,
    DecisionCurve,
    Interval,
    OperatingPoint,
    Predictions,
    YesNo,
    auc_intervals,
    decision_curve,
    has_cases,
    malignant,
    malignant_question,
    operating_points,
    per_case,
)
from siglip_med.report.evidence import Evidence
from siglip_med.report.page import Figure, Section, Table, percent, with_range
from siglip_med.report.plots.operating import decision_figure, roc_figure
from siglip_med.report.plots.style import to_png

_ROWS = (0.02, 0.05, 0.1, 0.2, 0.3)
"""Of `RISKS`, those of the table."""


@dataclass(frozen=True)
class MalignantFindings:
    """Malignant against the rest, by image or by case; ``sizes`` ``[2, 2]`` cases: split, then without and with."""

    question: YesNo
    sizes: np.ndarray
    points: list[OperatingPoint]
    auc: Interval
    curve: DecisionCurve | None


def operating_section(evidence: Evidence) -> Section:
    """Sensitivity and specificity at thresholds of validation, for each condition and malignant against the rest."""
    s, test, bootstrap = evidence.settings, evidence.test, evidence.settings.resampling
    columns = malignant(test.codes, s.malignant)
    found = {"per image": _malignant(evidence, evidence.val, test, columns)} if columns.any() else {}
    if columns.any() and has_cases(test):
        found["per case"] = _malignant(evidence, per_case(evidence.val), per_case(test), columns)
    validation, asked = map(YesNo.of_conditions, (evidence.val, test))
    points = operating_points(validation, asked, s.points, s.smallest_group, bootstrap)
    areas, sizes = auc_intervals(asked, s.smallest_group, bootstrap), (validation.sizes, asked.sizes)
    order = np.argsort(-test.train_counts, kind="stable")
    rows = tuple(
        (
            test.conditions[c],
            *(f"{one[1, c]:,}" for one in sizes),
            with_range(areas[c]),
            *(with_range(p.reached[name], ".2f") for p in points[c] for name in ("sensitivity", "specificity")),
        )
        for c in order
    )
    heads = tuple(f"{p.fixed} {p.share:g} on validation" for p in points[0])
    table = Table(
        "Every condition against the rest, most common in training first",
        ("condition", "cases, validation", "cases, test", "AUC", *("sensitivity", "specificity") * len(heads)),
        rows,
        tall=True,
        groups=(("", 4), *((head, 2) for head in heads)),
    )
    figures = [figure for one in list(found.values())[:1] for figure in _figures(one)]
    return Section(
        key="operating_points",
        title="What is found, and what is missed?",
        paragraphs=(
            "Thresholds are chosen on the validation split, the sensitivity or specificity there being fixed; shown is "
            "what they reach on the test split, which may be less. Intervals resample cases; where all of a group are "
            "right, or all wrong, they are the exact ones of that many cases. An image counts as positive for whatever "
            "its labels list.",
            *_malignant_words(test, columns, found),
            smallest_words(evidence, sizes[1][1]),
        ),
        tables=(*_malignant_tables(found), table),
        figures=tuple(figures),
        data={
            "points": points,
            "auc": areas,
            "conditions": list(test.conditions),
            "cases": {"validation": sizes[0], "test": sizes[1]},
            "smallest_group": s.smallest_group,
            "malignant": {
                "conditions": [name for name, yes in zip(test.conditions, columns, strict=True) if yes],
                **{unit: _data(one) for unit, one in found.items()},
            },
        },
    )


def _malignant(evidence: Evidence, val: Predictions, test: Predictions, columns: np.ndarray) -> MalignantFindings:
    s, bootstrap = evidence.settings, evidence.settings.resampling
    asked = [malignant_question(one, evidence.calibration, columns) for one in (val, test)]
    sizes = np.array([one.sizes[:, 0] for one in asked])
    points = operating_points(asked[0], asked[1], s.points, s.smallest_group, bootstrap)[0]
    curve = decision_curve(asked[0], asked[1], bootstrap) if (sizes >= s.smallest_group).all() else None
    return MalignantFindings(asked[1], sizes, points, auc_intervals(asked[1], s.smallest_group, bootstrap)[0], curve)


def _malignant_words(test: Predictions, columns: np.ndarray, found: dict[str, MalignantFindings]) -> list[str]:
    names = [f"{test.conditions[c]} ({test.codes[c]})" for c in np.flatnonzero(columns)]
    if not found:
        return ["Malignant against the rest: no condition has a code of report.malignant, so there is nothing to say."]
    rest = [c for c in np.flatnonzero(~columns) if test.codes[c][:1] == "C" or "D00" <= test.codes[c][:3] < "D10"]
    unnamed = [test.conditions[c] for c in np.flatnonzero(~columns) if not test.codes[c]]
    one = next(iter(found.values()))
    words = [
        f"Malignant by code (report.malignant): {', '.join(names)}. The score is the sum of their calibrated "
        f"probabilities. Cases with and without: validation {one.sizes[0, 1]:,} and {one.sizes[0, 0]:,}, test "
        f"{one.sizes[1, 1]:,} and {one.sizes[1, 0]:,}. PPV and NPV are at the share of malignant images of this test "
        f"split, {percent(float(one.question.positive.mean()))}; elsewhere they differ."
    ]
    if rest:
        said = ", ".join(f"{test.conditions[c]} ({test.codes[c]})" for c in rest)
        words.append(f"Counted among the rest though their codes are of malignant or in situ neoplasms: {said}.")
    if unnamed:
        words.append(f"Counted among the rest for want of a code: {', '.join(unnamed)}.")
    if one.curve is not None:
        words.append(
            "Net benefit is TP/n − FP/n · pt/(1 − pt): true positives, less false ones at the odds of the risk pt from "
            "which one would act (Vickers & Elkin 2006). The model is worth using where its curve lies above "
            "both acting on everybody and on nobody. Its risk is the score on a logistic scale fitted on validation."
        )
    return words


def _malignant_tables(found: dict[str, MalignantFindings]) -> list[Table]:
    rows = tuple(
        (
            f"{unit}, {p.fixed} {p.share:g} on validation",
            *(with_range(p.reached[n]) for n in REACHED),
            with_range(one.auc),
        )
        for unit, one in found.items()
        for p in one.points
    )
    tables = [
        Table("Malignant against the rest", ("", "sensitivity", "specificity", "PPV", "NPV", "AUC"), rows)
    ] * bool(rows)
    places = [int(np.abs(RISKS - risk).argmin()) for risk in _ROWS]
    benefits = tuple(
        (
            f"{unit}, act from a risk of {RISKS[place]:.0%}",
            with_range(one.curve.model[place]),
            with_range(one.curve.everybody[place]),
            "0",
            with_range(one.curve.gain[place]),
        )
        for unit, one in found.items()
        if one.curve is not None
        for place in places
    )
    columns = ("", "by the model", "everybody", "nobody", "model less everybody")
    return tables + [Table("Net benefit, malignant against the rest", columns, benefits)] * bool(benefits)


def _figures(one: MalignantFindings) -> list[Figure]:
    figures = []
    if np.isfinite(one.auc.estimate):
        false_alarms, right, _ = roc_curve(one.question.positive[:, 0], one.question.scores[:, 0])
        drawn = [p for p in one.points if np.isfinite([p.reached[n].estimate for n in REACHED[:2]]).all()]
        png = to_png(roc_figure(false_alarms, right, with_range(one.auc), drawn))
        caption = "Malignant against the rest, per image. Whiskers: intervals over cases."
        figures.append(Figure("roc", png, "ROC curve of malignant against the rest.", caption, 420))
    if one.curve is not None:
        caption = "Net benefit, per image. Band: interval of the model's curve over cases."
        png = to_png(decision_figure(one.curve))
        figures.append(Figure("decision_curve", png, "Decision curve of malignant against the rest.", caption, 520))
    return figures


def smallest_words(evidence: Evidence, cases: np.ndarray) -> str:
    """The smallest group that the numbers can speak of; ``cases`` is ``[C]``, of the test split, with each condition.

    What could still be wrong is 1 - 0.05^(1/n), the exact form of the "rule of three" (Hanley & Lippman-Hand 1983).
    """
    least, names = evidence.settings.smallest_group, evidence.test.conditions
    told = np.flatnonzero(cases >= least)
    words = (
        f"The smallest group that is spoken of has {least:,} cases (report.smallest_group); a smaller one has a dash "
        f"(–), which is not 0. Were all {least:,} right, {percent(1 - 0.05 ** (1 / least))} of such answers could "
        f"still be wrong (95%). {len(told)} of {len(names)} conditions have as many cases in the test split"
    )
    if not len(told):
        return words + ": of none of them can the sensitivity be told."
    smallest = told[cases[told].argmin()]
    return f"{words}; the smallest of them is {names[smallest]}, {cases[smallest]:,} cases."


def _data(one: MalignantFindings) -> dict[str, Any]:
    curve = None if one.curve is None else {"risks": RISKS, **vars(one.curve)}
    sizes = dict(zip(("validation", "test"), one.sizes, strict=True))
    return {"points": one.points, "auc": one.auc, "curve": curve, "cases": sizes}
