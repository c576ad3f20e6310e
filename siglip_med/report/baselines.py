"""What a run is judged beside, every number with the interval that the run's own has."""

from collections.abc import Iterable

from siglip_med.metrics import BASELINES as NAMES
from siglip_med.metrics import (
    NEED_SCORES,
    RESAMPLED_METRICS,
    Bootstrap,
    Interval,
    Predictions,
    chance_intervals,
    label_frequency_predictions,
)

BASELINES = CHANCE, FREQUENCY, ZERO_SHOT, PROBE = tuple(NAMES.values())
NOT_MEASURED = "not measured"
KEYS = {words: key for key, words in NAMES.items()}
"""How metrics.json calls them."""

Intervals = dict[str, Interval]


def baseline_intervals(
    test: Predictions,
    zero_shot: Predictions | None,
    probe: Predictions | None,
    metrics: Iterable[str],
    bootstrap: Bootstrap,
) -> dict[str, Intervals | None]:
    """The baselines on the test images of a run.

    Args:
        test: predictions of the run.
        zero_shot: of the same base before training, or None.
        probe: of a linear probe of its image features, or None.
        metrics: names among the headline metrics.
        bootstrap: of the intervals; its seed is that of chance too.

    Returns:
        Baseline -> metric -> interval; None for a baseline that was not measured. Chance, label frequency and the probe
        rank and do not score, so they have no metric of scores.
    """
    names = tuple(metrics)
    ranking = tuple(name for name in names if name not in NEED_SCORES and name in RESAMPLED_METRICS)
    frequency = label_frequency_predictions(test) if test.train_counts.any() else None
    return {
        CHANCE: chance_intervals(test, ranking, bootstrap),
        FREQUENCY: None if frequency is None else bootstrap.intervals(frequency, ranking),
        ZERO_SHOT: None if zero_shot is None else bootstrap.intervals(zero_shot, names),
        PROBE: None if probe is None else bootstrap.intervals(probe, ranking),
    }
