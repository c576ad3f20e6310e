"""What several sections need, computed once; and what a run is judged beside."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from siglip_med.metrics import BASELINES as NAMES
from siglip_med.metrics import (
    HEADLINE_METRICS,
    NEED_SCORES,
    RESAMPLED_METRICS,
    Answers,
    Bootstrap,
    Calibration,
    Interval,
    PairedResult,
    Predictions,
    answers,
    chance_intervals,
    crm,
    far_half,
    fit_calibration,
    has_cases,
    headline_metrics,
    label_frequency_predictions,
    per_case,
)
from siglip_med.report.inputs import ReportInputs, ReportSettings
from siglip_med.report.verdict import AGAINST, farthest, verdict

RUN, CRM = "this run", "CRM"
BASELINES = CHANCE, FREQUENCY, ZERO_SHOT, PROBE, KERNEL, PROMPTS = tuple(NAMES.values())
PROBES = {PROBE: "probe_test", KERNEL: "kernel_probe_test"}
"""The probes of the base, and where a run folder keeps their predictions."""
BESIDE = PROBES | {PROMPTS: "prompts_test"}
"""The same, and where a refit answers, its model's own scores."""
PROMPTS_VAL = "prompts_val"
"""Where these are on validation."""
NOT_MEASURED = "not measured"
KEYS = {words: key for key, words in NAMES.items()}
"""How metrics.json calls them."""

Intervals = dict[str, Interval]


def baseline_intervals(
    test: Predictions,
    zero_shot: Predictions | None,
    probes: Mapping[str, Predictions],
    metrics: Iterable[str],
    bootstrap: Bootstrap,
) -> dict[str, Intervals | None]:
    """Baseline -> metric -> interval on the test images of a run; None for a baseline that was not measured.

    Chance, class prior and probes rank and do not score, so they have no metric of scores. The prompts of a refit's
    model are there with a refit alone.
    """
    names = tuple(metrics)
    ranking = tuple(name for name in names if name not in NEED_SCORES and name in RESAMPLED_METRICS)
    frequency = label_frequency_predictions(test) if test.train_counts.any() else None
    return {
        CHANCE: chance_intervals(test, ranking, bootstrap),
        FREQUENCY: None if frequency is None else bootstrap.intervals(frequency, ranking),
        ZERO_SHOT: None if zero_shot is None else bootstrap.intervals(zero_shot, names),
        **{name: bootstrap.intervals(probes[name], ranking) if name in probes else None for name in PROBES},
        **({PROMPTS: bootstrap.intervals(probes[PROMPTS], names)} if PROMPTS in probes else {}),
    }


@dataclass(frozen=True)
class Evidence:
    """The judged run with its baselines; None, or empty, where something was not measured."""

    test: Predictions
    val: Predictions
    zero_shot: Predictions | None
    probes: Mapping[str, Predictions]
    settings: ReportSettings
    calibration: Calibration
    reranked: Predictions
    values: dict[str, dict[str, float]]
    intervals: dict[str, Interval]
    case_intervals: dict[str, Interval]
    baselines: dict[str, Intervals | None]
    changes: dict[str, PairedResult]
    answers: Answers
    verdict: tuple[str, ...]
    own_metrics: dict[str, Interval]

    @classmethod
    def gather(cls, inputs: ReportInputs, settings: ReportSettings) -> "Evidence":
        """Judges the run and its baselines; a UserError for an empty split, or zero-shot ones of other images."""
        test, zero_shot = inputs.test, inputs.zero_shot
        resampling = settings.resampling
        intervals = resampling.intervals(test)
        calibration = fit_calibration(inputs.val)
        reranked = crm(test, calibration.temperature)
        baselines = baseline_intervals(test, zero_shot, inputs.probes, HEADLINE_METRICS, resampling)
        measured: dict[str, Intervals] = {name: found for name, found in baselines.items() if found is not None}
        values = {
            name: {metric: interval.estimate for metric, interval in found.items()}
            for name, found in ({RUN: intervals} | measured).items()
        }
        if zero_shot is not None:
            values[ZERO_SHOT] = headline_metrics(zero_shot)
        values[CRM] = {name: value for name, value in headline_metrics(reranked).items() if name not in NEED_SCORES}

        def against(rival: Predictions | None, metrics: Sequence[str]) -> dict[str, PairedResult] | None:
            return None if rival is None else resampling.paired([(test, rival)], metrics)

        changes = against(zero_shot, RESAMPLED_METRICS)
        frequency = label_frequency_predictions(test) if test.train_counts.any() else None
        given = answers(test, settings.malignant)
        probed = [against(inputs.probes.get(name), AGAINST) for name in PROBES]
        prompts = against(inputs.probes.get(PROMPTS), AGAINST)
        said = verdict(against(frequency, AGAINST), changes, probed, given, len(test.conditions), prompts)
        if (far := far_half(test)) is not None:
            probe = far_half(inputs.probes[PROBE]) if PROBE in inputs.probes else None
            known = None if probe is None else resampling.paired([(far, probe)], ["r_at_1"])["r_at_1"]
            r1 = resampling.intervals(far, ["r_at_1"])["r_at_1"]
            said = (*said, farthest(r1, intervals["r_at_1"].estimate, float(far.nearest.max()), known))
        return cls(
            test=test,
            val=inputs.val,
            zero_shot=zero_shot,
            probes=inputs.probes,
            settings=settings,
            calibration=calibration,
            reranked=reranked,
            values=values,
            intervals=intervals,
            case_intervals=resampling.intervals(per_case(test)) if has_cases(test) else {},
            baselines=baselines,
            changes=changes or {},
            answers=given,
            verdict=said,
            own_metrics=inputs.meta.own_metrics,
        )

    def interval_of_mean(self, values: np.ndarray) -> Interval:
        """Interval of the mean of one value per image of the test split."""
        return self.settings.resampling.mean(values, self.test.cases)
