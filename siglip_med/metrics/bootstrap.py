"""Intervals and comparisons by resampling cases: the images of one patient contribution stand or fall together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from siglip_med.core.errors import UserError
from siglip_med.metrics.headline import headline_metrics
from siglip_med.metrics.names import HEADLINE_METRICS, RESAMPLED_METRICS
from siglip_med.metrics.predictions import Predictions
from siglip_med.metrics.resampling import CaseStatistics, Scores

_CHUNK = 100


@dataclass(frozen=True)
class Interval:
    """A metric with its percentile bootstrap interval; the bounds are NaN where resampling says nothing."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedResult:
    """Run a against run b on the same images.

    Attributes:
        difference: metric of a minus metric of b.
        low: lower bound of the interval of the difference; ``high``: upper bound.
        p_value: two-sided, of "no difference".
        minimum_detectable_difference: what this test set would show four times in five, given how these two runs vary.
    """

    difference: float
    low: float
    high: float
    p_value: float
    minimum_detectable_difference: float


def case_weights(cases: int, repetitions: int, rng: np.random.Generator) -> np.ndarray:
    """``[repetitions, cases]`` float64: how often each case is drawn when G cases are drawn with replacement.

    Examples:
        >>> weights = case_weights(cases=3, repetitions=5, rng=np.random.default_rng(0))
        >>> weights.shape, weights.sum(axis=1).tolist()
        ((5, 3), [3.0, 3.0, 3.0, 3.0, 3.0])
    """
    drawn = rng.integers(cases, size=(repetitions, cases)) + np.arange(repetitions)[:, None] * cases
    return np.bincount(drawn.ravel(), minlength=repetitions * cases).reshape(repetitions, cases).astype(np.float64)


def bootstrap_intervals(
    predictions: Predictions,
    metrics: Iterable[str] = HEADLINE_METRICS,
    repetitions: int = 1000,
    seed: int = 0,
    coverage: float = 0.95,
) -> dict[str, Interval]:
    """Percentile intervals of headline metrics over cases.

    Every metric of `RESAMPLED_METRICS` is a function of sums over cases, so all of them use all the repetitions. The
    Spearman correlations of the embeddings do not depend on which images were drawn, and the loss is not resampled:
    their bounds are NaN. A condition without a positive in a resample is left out of that resample's mean over
    conditions.

    Args:
        predictions: N images of G cases.
        metrics: names among `HEADLINE_METRICS`.
        repetitions: resamples.
        seed: of the draws; the same seed draws the same cases.
        coverage: of the interval, 0.95 for a 95% one.

    Returns:
        name -> interval, in the order asked for.

    Raises:
        UserError: an unknown metric, or no image.

    Source: Efron & Tibshirani 1993, chapter 13; cluster resampling: Davison & Hinkley 1997, section 3.8.

    Examples:
        >>> predictions = Predictions.of([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [[1, 0, 0], [0, 1, 0]])
        >>> bootstrap_intervals(predictions, ["mrr"])["mrr"]
        Interval(estimate=0.75, low=0.5, high=1.0)
    """
    metrics = tuple(metrics)
    _check_names(metrics, HEADLINE_METRICS)
    _check_images(predictions)
    estimates = headline_metrics(predictions) if set(metrics) - set(RESAMPLED_METRICS) else {}
    sums = CaseStatistics.build(Scores.of(predictions), predictions.cases, metrics)
    estimates |= {name: float(value[0]) for name, value in sums.values(np.ones((1, sums.cases))).items()}
    draws = _draws([sums], repetitions, seed)[0]
    undefined = np.full(repetitions, np.nan)
    return {name: _interval(estimates[name], draws.get(name, undefined), coverage) for name in metrics}


def average_intervals(
    runs: Sequence[Predictions],
    metrics: Iterable[str] = RESAMPLED_METRICS,
    repetitions: int = 1000,
    seed: int = 0,
    coverage: float = 0.95,
) -> dict[str, Interval]:
    """Intervals of what several judgments of the same images give on average (random orders, for example).

    Args:
        runs: each over the same images in the same order.
        metrics: names among `RESAMPLED_METRICS`.
        repetitions: resamples of the cases, the same ones for every run.
        seed: of the draws.
        coverage: of the intervals.

    Raises:
        UserError: an unknown metric, or no image.

    Examples:
        >>> predictions = Predictions.of([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [[1, 0, 0], [0, 1, 0]])
        >>> average_intervals([predictions, predictions], ["mrr"])["mrr"]
        Interval(estimate=0.75, low=0.5, high=1.0)
    """
    metrics = tuple(metrics)
    _check_names(metrics, RESAMPLED_METRICS)
    _check_images(runs[0])
    sums = [CaseStatistics.build(Scores.of(run), runs[0].cases, metrics) for run in runs]
    whole = [one.values(np.ones((1, one.cases))) for one in sums]
    drawn = _draws(sums, repetitions, seed)
    return {
        name: _interval(
            float(np.mean([one[name][0] for one in whole])),
            np.mean([one[name] for one in drawn], axis=0),
            coverage,
        )
        for name in metrics
    }


def paired_bootstrap(
    a: Predictions,
    b: Predictions,
    metrics: Iterable[str] = RESAMPLED_METRICS,
    repetitions: int = 1000,
    seed: int = 0,
    coverage: float = 0.95,
) -> dict[str, PairedResult]:
    """Is run a better than run b on the same images, and how small a difference could this test set show?

    Both runs are judged on the same resampled cases and with the D of ``a``: one yardstick for both. The p-value is
    the share of resamples whose difference lies as far from the observed one as the observed one lies from 0 (Efron
    & Tibshirani 1993, chapter 16), at least 1 / (repetitions + 1). The minimum detectable difference is
    (z_0.975 + z_0.8) = 2.8 standard errors (Bloom 1995) where ``coverage`` is 0.95.

    Args:
        a: one run.
        b: the run that is subtracted, over the same images, conditions and labels (in any order of the images).
        metrics: names among `RESAMPLED_METRICS`; p-values are not corrected for asking about several.
        repetitions: resamples.
        seed: of the draws.
        coverage: of the intervals; 1 - coverage is the error rate of the test.

    Returns:
        name -> result, in the order asked for.

    Raises:
        UserError: an unknown metric, no image, or runs that were not judged on the same images, conditions and labels.

    Examples:
        >>> predictions = Predictions.of([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [[1, 0, 0], [0, 1, 0]])
        >>> paired_bootstrap(predictions, predictions, ["mrr"])["mrr"].p_value
        1.0
    """
    metrics = tuple(metrics)
    whole, drawn = _paired_draws(a, b, metrics, repetitions, seed)
    return {name: _paired(whole[name], drawn[name], coverage) for name in metrics}


def paired_bootstrap_over_seeds(
    pairs: Sequence[tuple[Predictions, Predictions]],
    metrics: Iterable[str] = RESAMPLED_METRICS,
    repetitions: int = 1000,
    seed: int = 0,
    coverage: float = 0.95,
) -> dict[str, PairedResult]:
    """`paired_bootstrap` of the mean difference over seeds: each pair is two runs of one seed on the same images.

    The seeds stay as they are; the cases of each are drawn again. Seeds that share their test cases get the same draws,
    so that a case stands or falls with all of its predictions; others are drawn on their own.

    Args:
        pairs: run and the run that is subtracted, one pair a seed.
        metrics: names among `RESAMPLED_METRICS`.
        repetitions: resamples.
        seed: of the draws.
        coverage: of the intervals.

    Returns:
        name -> result of the mean difference, in the order asked for.

    Raises:
        UserError: as `paired_bootstrap`, or there is no pair.

    Examples:
        >>> one = Predictions.of([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [[1, 0, 0], [0, 1, 0]])
        >>> paired_bootstrap_over_seeds([(one, one), (one, one)], ["mrr"])["mrr"].difference
        0.0
    """
    metrics = tuple(metrics)
    if not pairs:
        raise UserError("a comparison over seeds needs at least one pair of runs")
    found = [
        _paired_draws(a, b, metrics, repetitions, seed + _first_alike(pairs, position))
        for position, (a, b) in enumerate(pairs)
    ]
    return {
        name: _paired(
            float(np.mean([whole[name] for whole, _ in found])),
            np.mean([drawn[name] for _, drawn in found], axis=0),
            coverage,
        )
        for name in metrics
    }


def _first_alike(pairs: Sequence[tuple[Predictions, Predictions]], position: int) -> int:
    """The first pair that was judged on the same cases."""
    cases = [np.unique(a.cases) for a, _ in pairs[: position + 1]]
    return next(i for i, other in enumerate(cases) if np.array_equal(other, cases[position]))


def _paired_draws(
    a: Predictions, b: Predictions, metrics: tuple[str, ...], repetitions: int, seed: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The differences of two runs, observed and in every resample."""
    _check_names(metrics, RESAMPLED_METRICS)
    _check_images(a)
    b = replace(_aligned(a, b), dissimilarity=a.dissimilarity, chapters=a.chapters, blocks=a.blocks)
    sums = [CaseStatistics.build(Scores.of(run), a.cases, metrics) for run in (a, b)]
    whole = [one.values(np.ones((1, one.cases))) for one in sums]
    drawn = _draws(sums, repetitions, seed)
    return (
        {name: float(whole[0][name][0] - whole[1][name][0]) for name in metrics},
        {name: drawn[0][name] - drawn[1][name] for name in metrics},
    )


def _paired(difference: float, resampled: np.ndarray, coverage: float) -> PairedResult:
    interval = _interval(difference, resampled, coverage)
    resampled = resampled[np.isfinite(resampled)]
    if not (np.isfinite(difference) and len(resampled)):
        return PairedResult(difference, interval.low, interval.high, float("nan"), float("nan"))
    # a hair of tolerance: sums in another order must not turn an equal difference into a smaller one
    as_far = np.abs(resampled - difference) >= abs(difference) - 1e-12
    p_value = (1 + int(as_far.sum())) / (len(resampled) + 1)
    factor = norm.ppf(0.5 + coverage / 2) + norm.ppf(0.8)
    return PairedResult(difference, interval.low, interval.high, p_value, float(factor * resampled.std()))


def bootstrap_mean(
    values: np.ndarray, cases: np.ndarray, repetitions: int = 1000, seed: int = 0, coverage: float = 0.95
) -> Interval:
    """Interval of the mean of per-image values (a hit of `candidate_retrieval`, a size of a prediction set).

    Args:
        values: ``[N]``; NaN where the value does not apply to the image.
        cases: ``[N]`` case of each image.
        repetitions: resamples.
        seed: of the draws.
        coverage: of the interval.

    Raises:
        UserError: no image.

    Examples:
        >>> bootstrap_mean(np.array([0.0, 1.0, 1.0]), cases=np.array(["a", "b", "b"]))
        Interval(estimate=0.6666666666666666, low=0.0, high=1.0)
    """
    if len(values) == 0:
        raise UserError("an interval needs at least one image; this split or group is empty")
    case = np.unique(cases, return_inverse=True)[1]
    values = np.asarray(values, dtype=np.float64)
    sums = np.bincount(case, weights=np.nan_to_num(values))
    counts = np.bincount(case, weights=np.isfinite(values))
    rng, means = np.random.default_rng(seed), []
    with np.errstate(invalid="ignore"):
        for size in _chunks(repetitions):
            weights = case_weights(len(sums), size, rng)
            means.append((weights @ sums) / (weights @ counts))
        return _interval(float(sums.sum() / counts.sum()), np.concatenate(means), coverage)


def bootstrap_function(
    predictions: Predictions,
    function: Callable[[Predictions], float],
    repetitions: int = 200,
    seed: int = 0,
    coverage: float = 0.95,
) -> Interval:
    """Interval of any metric, by rebuilding the predictions of every resample: slow, hence fewer repetitions.

    For metrics that are no function of sums over cases (text-to-image R@K, for example).

    Args:
        predictions: N images of G cases.
        function: the metric.
        repetitions: resamples; 200 give the bounds to about a tenth of the interval's width.
        seed: of the draws.
        coverage: of the interval.

    Raises:
        UserError: no image.

    Examples:
        >>> predictions = Predictions.of([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [[1, 0, 0], [0, 1, 0]])
        >>> bootstrap_function(predictions, len)
        Interval(estimate=2, low=2.0, high=2.0)
    """
    _check_images(predictions)
    case = np.unique(predictions.cases, return_inverse=True)[1]
    by_case = np.argsort(case, kind="stable")
    rows = np.split(by_case, np.cumsum(np.bincount(case))[:-1])
    rng = np.random.default_rng(seed)
    values = np.empty(repetitions)
    for repetition in range(repetitions):
        drawn = rng.integers(len(rows), size=len(rows))
        values[repetition] = function(predictions.take(np.concatenate([rows[case] for case in drawn])))
    return _interval(function(predictions), values, coverage)


def _chunks(repetitions: int) -> Iterator[int]:
    for start in range(0, repetitions, _CHUNK):
        yield min(_CHUNK, repetitions - start)


def _draws(sums: list[CaseStatistics], repetitions: int, seed: int) -> list[dict[str, np.ndarray]]:
    """The same resamples for every entry of ``sums``, in chunks that keep the weights small."""
    rng = np.random.default_rng(seed)
    chunks: list[list[dict[str, np.ndarray]]] = [[] for _ in sums]
    for size in _chunks(repetitions):
        weights = case_weights(sums[0].cases, size, rng)
        for collected, one in zip(chunks, sums, strict=True):
            collected.append(one.values(weights))
    return [{name: np.concatenate([chunk[name] for chunk in run]) for name in run[0]} for run in chunks]


def _interval(estimate: float, values: np.ndarray, coverage: float) -> Interval:
    values = values[np.isfinite(values)]
    if not (np.isfinite(estimate) and len(values)):
        return Interval(estimate, float("nan"), float("nan"))
    low, high = np.quantile(values, [0.5 - coverage / 2, 0.5 + coverage / 2])
    return Interval(estimate, float(low), float(high))


def _aligned(a: Predictions, b: Predictions) -> Predictions:
    """``b`` in the order of the images of ``a``."""
    if a.conditions != b.conditions:
        raise UserError("the two runs have different conditions (or another order): compare runs of one data set")
    ids_a, ids_b = (run.frame["image"].to_numpy(dtype=str) for run in (a, b))
    order_a, order_b = np.argsort(ids_a, kind="stable"), np.argsort(ids_b, kind="stable")
    if not np.array_equal(ids_a[order_a], ids_b[order_b]):
        extra = sorted(set(ids_a) ^ set(ids_b))
        where = f" (first that only one of them has: {extra[0]!r})" if extra else ""
        raise UserError(f"the two runs were judged on different images{where}: compare runs with one split")
    rows = np.empty_like(order_b)
    rows[order_a] = order_b
    b = b.take(rows)
    if not np.array_equal(a.positive, b.positive):
        raise UserError("the two runs have different labels for the same images: compare runs of one data set")
    return b


def _check_names(metrics: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in metrics:
        if name not in known:
            raise UserError(f"unknown metric {name!r}; choose among: {', '.join(known)}")


def _check_images(predictions: Predictions) -> None:
    if len(predictions) == 0:
        raise UserError(f"split {predictions.split!r} has no image, so there is nothing to judge")
