"""What several sections need, computed once."""

from dataclasses import dataclass

import numpy as np

from siglip_med.metrics import (
    HEADLINE_METRICS,
    NEED_SCORES,
    Calibration,
    Interval,
    PairedResult,
    Predictions,
    bootstrap_intervals,
    bootstrap_mean,
    chance,
    crm,
    fit_calibration,
    headline_metrics,
    label_frequency_predictions,
    paired_bootstrap,
)
from siglip_med.report.inputs import ReportInputs, ReportSettings

RUN, ZERO_SHOT, FREQUENCY, CHANCE, CRM = "this run", "zero-shot", "label frequency", "chance", "CRM"


@dataclass(frozen=True)
class Evidence:
    """The judged run with its baselines.

    Attributes:
        test: what is judged; ``val`` chooses; ``zero_shot``: the same images before training, or None.
        settings: of the report.
        calibration: temperature and bias, fitted on validation.
        reranked: the test split re-ranked by expected distance.
        values: series -> metric -> value; the run first.
        intervals: of the run.
        changes: metric -> the run against zero-shot; empty without zero-shot predictions.
    """

    test: Predictions
    val: Predictions
    zero_shot: Predictions | None
    settings: ReportSettings
    calibration: Calibration
    reranked: Predictions
    values: dict[str, dict[str, float]]
    intervals: dict[str, Interval]
    changes: dict[str, PairedResult]

    @classmethod
    def gather(cls, inputs: ReportInputs, settings: ReportSettings) -> "Evidence":
        """Judges the run and its baselines.

        Raises:
            UserError: a split has no image, or zero-shot predictions are of other images.
        """
        test, zero_shot = inputs.test, inputs.zero_shot
        repetitions, seed, coverage = settings.bootstrap, settings.seed, settings.coverage
        intervals = bootstrap_intervals(test, HEADLINE_METRICS, repetitions, seed, coverage)
        calibration = fit_calibration(inputs.val)
        reranked = crm(test, calibration.temperature)
        values = {RUN: {name: interval.estimate for name, interval in intervals.items()}}
        changes: dict[str, PairedResult] = {}
        if zero_shot is not None:
            values[ZERO_SHOT] = headline_metrics(zero_shot)
            changes = paired_bootstrap(test, zero_shot, repetitions=repetitions, seed=seed, coverage=coverage)
        if test.train_counts.any():
            values[FREQUENCY] = _ranking_only(headline_metrics(label_frequency_predictions(test)))
        values[CHANCE] = _ranking_only(chance(test, seed=seed))
        values[CRM] = _ranking_only(headline_metrics(reranked))
        return cls(test, inputs.val, zero_shot, settings, calibration, reranked, values, intervals, changes)

    def interval_of_mean(self, values: np.ndarray) -> Interval:
        """Interval of the mean of one value an image of the test split."""
        settings = self.settings
        return bootstrap_mean(values, self.test.cases, settings.bootstrap, settings.seed, settings.coverage)


def _ranking_only(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name not in NEED_SCORES}
