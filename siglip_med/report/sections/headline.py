"""The numbers that a reader looks for first."""

from siglip_med.metrics import CHOOSING, candidate_retrieval, defined_conditions, names_by, saturation, table_label
from siglip_med.report.evidence import (
    BASELINES,
    CHANCE,
    CRM,
    KERNEL,
    NOT_MEASURED,
    PROBE,
    PROMPTS,
    RUN,
    ZERO_SHOT,
    Evidence,
)
from siglip_med.report.page import Card, Figure, Section, Table, bounds, change, number, percent, with_range
from siglip_med.report.plots.comparisons import baselines_figure
from siglip_med.report.plots.style import to_png

_CARDS = ("r_at_1", "r_at_5", CHOOSING, "icd_distance_all")
_DRAWN = (
    "r_at_1", "r_at_5", "macro_r_at_1", "macro_r_at_5", "mrr", "macro_f1", "macro_auc", "icd_distance_all", "hops",
    "ece",
)  # fmt: skip
_DRAWS = (0, 1, 2, 3, 4)
_CASES = ("per case",)


def cards(evidence: Evidence) -> tuple[Card, ...]:
    """The four numbers at the top of the page."""
    return tuple(
        Card(
            label=table_label(metric, len(evidence.test.conditions)),
            value=number(evidence.intervals[metric].estimate),
            interval=bounds(evidence.intervals[metric].low, evidence.intervals[metric].high),
            beside=" · ".join(f"{name} {_of_baseline(evidence, name, metric)}" for name in evidence.baselines),
        )
        for metric in _CARDS
    )


def _of_baseline(evidence: Evidence, name: str, metric: str) -> str:
    """A baseline's number with its interval; a metric of scores is not defined for one that only ranks."""
    found = evidence.baselines[name]
    if found is None:
        return NOT_MEASURED
    return with_range(found[metric]) if metric in found else number(None)


def lead(evidence: Evidence) -> str:
    """The result in two sentences."""
    test, r1 = evidence.test, evidence.intervals["r_at_1"]
    beside = [f"{percent(evidence.values[s]['r_at_1'])} by {s}" for s in reversed(BASELINES) if s in evidence.values]
    said = saturation("r_at_5", len(test.conditions))
    return (
        f"Of {test.size}, the first of {len(test.conditions)} conditions is a listed one in {percent(r1.estimate)} "
        f"({evidence.settings.coverage:.0%} interval {percent(r1.low)} to {percent(r1.high)}), against "
        f"{', '.join(beside)}. A positive condition is among the first five in "
        f"{percent(evidence.values[RUN]['r_at_5'])}{f' ({said})' if said else ''}."
    )


def headline_section(evidence: Evidence) -> Section:
    """Every headline metric with its interval, beside the baselines."""
    ours = f"{RUN} [{evidence.settings.coverage:.0%} interval]"
    columns = ["", ours, *_CASES * bool(evidence.case_intervals), "change from zero-shot", *evidence.baselines, CRM]
    tables = tuple(
        Table(title, tuple(columns), tuple(_row(evidence, metric) for metric in metrics))
        for title, metrics in names_by("group").items()
    )
    labels = {metric: table_label(metric, len(evidence.test.conditions)) for metric in _DRAWN}
    drawn = {
        name: {label: values.get(metric, float("nan")) for metric, label in labels.items()}
        for name, values in evidence.values.items()
    }
    figure = baselines_figure(drawn, {label: evidence.intervals[metric] for metric, label in labels.items()})
    if evidence.own_metrics:
        rows = tuple((name, with_range(interval)) for name, interval in evidence.own_metrics.items())
        tables = (*tables, Table("Metrics of one's own, as the run computed them", ("", RUN), rows))
    defined = defined_conditions(evidence.test)
    return Section(
        key="headline",
        title="Headline numbers",
        paragraphs=(
            f"Intervals resample cases, not images ({evidence.settings.bootstrap:,} times), so that two "
            "photographs of one patient do not count as two witnesses. Chance and class prior never look "
            "at the image; class prior ranks by the counts of the training split. The linear "
            "probe is a logistic regression on the base's frozen image features, its C chosen on validation"
            f"{_fitted(evidence, PROBE)}; the kernel probe a kernel ridge regression on the same features, its width "
            f"and ridge chosen there{_fitted(evidence, KERNEL)}. {_refit(evidence)}"
            "CRM re-ranks this run's own answers by their expected ICD distance and needs no "
            "training: a loss that is meant to teach the hierarchy has to beat it.",
            f"Means over conditions are over those that occur in the test split: {defined['primary']} of "
            f"{defined['conditions']} as a primary label, {defined['positive']} as any label. ↓ marks what is "
            "better when it is lower. The distance of mistakes alone falls when a model adds easy mistakes; "
            "read it with the distance of all predictions above it. HOPS is 1 where every answer of the list is "
            "as near as its place allows, 0 where the far ones come first.",
        ),
        tables=(*tables, _candidates(evidence)) if _distractors(evidence) else tables,
        figures=(
            Figure(
                "headline",
                to_png(figure),
                f"This run and its baselines on {len(_DRAWN)} headline metrics.",
                f"Bar: {evidence.settings.coverage:.0%} interval of this run.",
                560,
            ),
        ),
        data={
            "values": evidence.values,
            "verdict": evidence.verdict,
            "baselines": evidence.baselines,
            "intervals": evidence.intervals,
            "case_intervals": evidence.case_intervals,
            "own_metrics": evidence.own_metrics,
            "changes_from_zero_shot": evidence.changes,
            "defined_conditions": defined,
        },
    )


def _row(evidence: Evidence, metric: str) -> tuple[str, ...]:
    changed = change(evidence.changes[metric]) if metric in evidence.changes else number(None)
    return (
        table_label(metric, len(evidence.test.conditions)),
        with_range(evidence.intervals[metric]),
        *(with_range(evidence.case_intervals[metric]) for _ in _CASES if evidence.case_intervals),
        changed if evidence.zero_shot is not None else NOT_MEASURED,
        *(_of_baseline(evidence, name, metric) for name in evidence.baselines),
        number(evidence.values[CRM].get(metric)),
    )


def _fitted(evidence: Evidence, name: str) -> str:
    said = evidence.probes[name].meta.get("probe", "") if name in evidence.probes else ""
    return f" ({said})" if said else ""


def _refit(evidence: Evidence) -> str:
    if PROMPTS not in evidence.probes:
        return ""
    said = evidence.test.meta.get("scores", "refit")
    return f"This run answers by its {said}; prompts are the same weights without it. "


def _distractors(evidence: Evidence) -> int:
    """As many as were asked for, or as every image leaves unlisted."""
    free = int((~evidence.test.positive).sum(axis=1).min())
    return min(evidence.settings.distractors, free)


def _candidates(evidence: Evidence) -> Table:
    distractors, rows = _distractors(evidence), []
    series = {RUN: evidence.test} | ({ZERO_SHOT: evidence.zero_shot} if evidence.zero_shot is not None else {})
    for name, predictions in series.items():
        result = candidate_retrieval(predictions, distractors, _DRAWS)
        summary = result.summary()
        hits = [with_range(evidence.interval_of_mean(result.hits(k))) for k in (1, 5)]
        rows.append((name, *hits, number(summary["candidates_mrr"]), number(summary["candidates_mean_rank"], 2)))
    rows.append((CHANCE, number(summary["chance_r_at_1"]), number(summary["chance_r_at_5"]), "", ""))
    caption = (
        f"The primary condition among {distractors} random others ({len(_DRAWS)} draws of the others for every image)"
    )
    said = f" (all {distractors + 1} candidates: always 1)" if distractors < 5 else ""
    return Table(caption, ("", "R@1", f"R@5{said}", "mean reciprocal rank", "mean rank"), tuple(rows))
