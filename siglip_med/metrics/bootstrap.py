"""Intervals and comparisons by resampling cases: the images of one patient contribution stand or fall together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from siglip_med.core.errors import UserError
from siglip_med.metrics.headline import headline_metrics
from siglip_med.metrics.names import HEADLINE_METRICS, RESAMPLED_METRICS
from siglip_med.metrics.predictions import Predictions
from siglip_med.metrics.resampling import CaseStatistics

_CHUNK, _CELLS = 100, 10_000_000
"""Resamples at once, and weights at once."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Interval:
    """A metric with its percentile bootstrap interval; the bounds are NaN where resampling says nothing of it."""

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


@dataclass(frozen=True)
class Bootstrap:
    """The percentile bootstrap over cases.

    Args:
        repetitions: resamples.
        seed: of the draws; the same seed draws the same cases.
        coverage: of the intervals, 0.95 for 95% ones; 1 - coverage is the error rate of a comparison.

    Source: Efron & Tibshirani 1993, chapter 13; cluster resampling: Davison & Hinkley 1997, section 3.8.

    Examples:
        >>> predictions = Predictions.of([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [[1, 0, 0], [0, 1, 0]])
        >>> Bootstrap().intervals(predictions, ["mrr"])["mrr"]
        Interval(estimate=0.75, low=0.5, high=1.0)
        >>> Bootstrap().paired([(predictions, predictions)], ["mrr"])["mrr"].p_value
        1.0
        >>> Bootstrap().mean(np.array([0.0, 1.0, 1.0]), cases=np.array(["a", "b", "b"]))
        Interval(estimate=0.6666666666666666, low=0.0, high=1.0)
        >>> Bootstrap(repetitions=200).function(predictions, len)
        Interval(estimate=2, low=2.0, high=2.0)
    """

    repetitions: int = 1000
    seed: int = 0
    coverage: float = 0.95

    def intervals(
        self, predictions: Predictions | Sequence[Predictions], metrics: Iterable[str] = HEADLINE_METRICS
    ) -> dict[str, Interval]:
        """Intervals of headline metrics.

        Every metric of `RESAMPLED_METRICS` is a function of sums over cases, so all of them use all the repetitions.
        The Spearman correlations of the embeddings do not depend on which images were drawn, and the loss is not
        resampled: their bounds are NaN. A condition without a positive in a resample is left out of that resample's
        mean over conditions.

        Args:
            predictions: N images of G cases; or several judgments of the same images in the same order (random orders,
                for example), which get the intervals of what they give on average.
            metrics: names among `HEADLINE_METRICS`.

        Returns:
            name -> interval, in the order asked for.

        Raises:
            UserError: an unknown metric, or no image.
        """
        runs = [predictions] if isinstance(predictions, Predictions) else list(predictions)
        metrics = _checked(metrics, HEADLINE_METRICS, runs[0])
        whole, drawn = self._resampled(runs, metrics, self.seed)
        estimates = dict(zip(metrics, whole.mean(axis=1).tolist(), strict=True))
        if rest := set(metrics) - set(RESAMPLED_METRICS):
            values = [headline_metrics(run) for run in runs]
            estimates |= {name: float(np.mean([one[name] for one in values])) for name in rest}
        means = drawn.mean(axis=0)
        return {name: self.interval(estimates[name], row) for name, row in zip(metrics, means, strict=True)}

    def paired(
        self, pairs: Sequence[tuple[Predictions, Predictions]], metrics: Iterable[str] = RESAMPLED_METRICS
    ) -> dict[str, PairedResult]:
        """Is one run better than another on the same images, and how small a difference could this test set show?

        Both runs of a pair are judged on the same resampled cases and with the D of the first: one yardstick for both.
        The p-value is the share of resamples whose difference lies as far from the observed one as the observed one
        lies from 0 (Efron & Tibshirani 1993, chapter 16), at least 1 / (repetitions + 1). The minimum detectable
        difference is (z_0.975 + z_0.8) = 2.8 standard errors (Bloom 1995) where ``coverage`` is 0.95.

        Several pairs, one per seed, give the mean difference over the seeds. The seeds stay as they are; the cases of
        each are drawn again. Seeds that share their test cases get the same draws, so that a case stands or falls with
        all of its predictions; others are drawn on their own.

        Args:
            pairs: a run and the run that is subtracted, over the same images, conditions and labels (in any order of
                the images).
            metrics: names among `RESAMPLED_METRICS`; p-values are not corrected for asking about several.

        Returns:
            name -> result, in the order asked for.

        Raises:
            UserError: an unknown metric, no image, no pair, or runs that were not judged on the same images, conditions
                and labels.
        """
        if not pairs:
            raise UserError("a comparison over seeds needs at least one pair of runs")
        metrics, wholes, draws, alike = tuple(metrics), [], [], dict[tuple[str, ...], int]()
        for position, (a, b) in enumerate(pairs):
            _checked(metrics, RESAMPLED_METRICS, a)
            b = replace(aligned(a, b), dissimilarity=a.dissimilarity, chapters=a.chapters, blocks=a.blocks)
            first = alike.setdefault(tuple(np.unique(a.cases)), position)  # judged on the same cases
            whole, drawn = self._resampled([a, b], metrics, self.seed + first)
            wholes.append(whole[:, 0] - whole[:, 1])
            draws.append(drawn[0] - drawn[1])
        differences = np.stack(wholes, axis=1).mean(axis=1).tolist()
        rows = zip(metrics, differences, np.mean(draws, axis=0), strict=True)
        return {name: self._paired(difference, row) for name, difference, row in rows}

    def mean(self, values: np.ndarray, cases: np.ndarray) -> Interval:
        """Interval of the mean of per-image values (a hit of `candidate_retrieval`, a size of a prediction set).

        Args:
            values: ``[N]``; NaN where the value does not apply to the image.
            cases: ``[N]`` case of each image.

        Raises:
            UserError: no image.
        """
        values = np.asarray(values, dtype=np.float64)[:, None]
        if len(values) == 0:
            raise UserError("an interval needs at least one image; this split or group is empty")
        return self.ratios(by_case(np.nan_to_num(values), cases), by_case(np.isfinite(values), cases))[0]

    def ratios(self, sums: np.ndarray, counts: np.ndarray) -> list[Interval]:
        """Intervals of M means, all on the same resamples: ``[G, M]`` sums of G cases and how many images they add."""
        with np.errstate(invalid="ignore"):
            drawn = [(weights @ sums) / (weights @ counts) for weights in self.weights(len(sums), self.seed)]
            whole, rows = sums.sum(axis=0) / counts.sum(axis=0), np.concatenate(drawn).T
        return [self.interval(float(estimate), row) for estimate, row in zip(whole, rows, strict=True)]

    def function(self, predictions: Predictions, function: Callable[[Predictions], float]) -> Interval:
        """Interval of any metric, by rebuilding the predictions of every resample: slow.

        For metrics that are no function of sums over cases (text-to-image R@K, for example). 200 repetitions give the
        bounds to about a tenth of the interval's width.

        Raises:
            UserError: no image.
        """
        _checked((), (), predictions)
        case = np.unique(predictions.cases, return_inverse=True)[1]
        rows = np.split(np.argsort(case, kind="stable"), np.cumsum(np.bincount(case))[:-1])
        rng, values = np.random.default_rng(self.seed), []
        for _ in range(self.repetitions):
            drawn = rng.integers(len(rows), size=len(rows))
            values.append(function(predictions.take(np.concatenate([rows[case] for case in drawn]))))
        return self.interval(function(predictions), np.array(values, dtype=np.float64))

    def weights(self, cases: int, seed: int) -> Iterator[np.ndarray]:
        """Of all resamples, in chunks that keep them small: ``[B, G]``, how often each of the G cases is drawn."""
        rng, chunk = np.random.default_rng(seed), max(min(_CHUNK, _CELLS // max(cases, 1)), 1)
        for start in range(0, self.repetitions, chunk):
            size = min(chunk, self.repetitions - start)
            drawn = rng.integers(cases, size=(size, cases)) + np.arange(size)[:, None] * cases
            yield np.bincount(drawn.ravel(), minlength=size * cases).reshape(size, cases).astype(np.float64)

    def _resampled(
        self, runs: Sequence[Predictions], metrics: Sequence[str], seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """``[M, runs]`` of all cases, ``[runs, M, repetitions]`` of the same resamples; NaN if not a sum over cases."""
        sums = [CaseStatistics.build(run, runs[0].cases, metrics) for run in runs]

        def judged(weights: np.ndarray) -> np.ndarray:
            undefined = np.full(len(weights), np.nan)
            values = [one.values(weights) for one in sums]
            rows = [of_run.get(name, undefined) for of_run in values for name in metrics]
            return np.array(rows).reshape(len(runs), len(metrics), len(weights))

        drawn = [judged(weights) for weights in self.weights(sums[0].cases, seed)]
        whole = judged(np.ones((1, sums[0].cases)))
        return np.ascontiguousarray(whole[:, :, 0].T), np.concatenate(drawn, axis=2)

    def interval(self, estimate: float, values: np.ndarray) -> Interval:
        """The percentile interval of an estimate whose resampled ``values`` are given; NaN among them is left out.

        Of few images resampling may move a metric so far to one side that the interval leaves its own estimate out
        (an average precision rises with repeated images): then there is none.
        """
        values = values[np.isfinite(values)]
        if not (np.isfinite(estimate) and len(values)):
            return Interval(estimate, float("nan"), float("nan"))
        low, high = np.quantile(values, [0.5 - self.coverage / 2, 0.5 + self.coverage / 2])
        if not low - _ROUNDING <= estimate <= high + _ROUNDING:
            low = high = np.nan
        return Interval(estimate, float(low), float(high))

    def _paired(self, difference: float, resampled: np.ndarray) -> PairedResult:
        interval = self.interval(difference, resampled)
        resampled = resampled[np.isfinite(resampled)]
        if not (np.isfinite(difference) and len(resampled)):
            return PairedResult(difference, interval.low, interval.high, float("nan"), float("nan"))
        # a hair of tolerance: sums in another order must not turn an equal difference into a smaller one
        as_far = np.abs(resampled - difference) >= abs(difference) - 1e-12
        p_value = (1 + int(as_far.sum())) / (len(resampled) + 1)
        factor = norm.ppf(0.5 + self.coverage / 2) + norm.ppf(0.8)
        return PairedResult(difference, interval.low, interval.high, p_value, float(factor * resampled.std()))


def by_case(values: np.ndarray, cases: np.ndarray) -> np.ndarray:
    """``[G, M]`` sums of ``[N, M]`` values over the images of each case, in the order of the cases' names."""
    names, case = np.unique(cases, return_inverse=True)
    return np.stack([np.bincount(case, column, minlength=len(names)) for column in values.T], axis=1)


def aligned(a: Predictions, b: Predictions) -> Predictions:
    """``b`` in the order of the images of ``a``."""
    if a.conditions != b.conditions:
        raise UserError("the two runs have different conditions (or another order): give runs of one data set")
    ids_a, ids_b = (run.frame["image"].to_numpy(dtype=str) for run in (a, b))
    order_a, order_b = np.argsort(ids_a, kind="stable"), np.argsort(ids_b, kind="stable")
    if not np.array_equal(ids_a[order_a], ids_b[order_b]):
        extra = sorted(set(ids_a) ^ set(ids_b))
        where = f" (first that only one of them has: {str(extra[0])!r})" if extra else ""
        raise UserError(
            f"the two runs were judged on different images{where}: give runs of one split (a seed decides it: train "
            "with data.split_file=…/split.csv of the first)"
        )
    rows = np.empty_like(order_b)
    rows[order_a] = order_b
    b = b.take(rows)
    if not np.array_equal(a.positive, b.positive):
        raise UserError("the two runs have different labels for the same images: give runs of one data set")
    return b


def _checked(metrics: Iterable[str], known: tuple[str, ...], predictions: Predictions) -> tuple[str, ...]:
    metrics = tuple(metrics)
    for name in metrics:
        if name not in known:
            raise UserError(f"unknown metric {name!r}; choose among: {', '.join(known)}")
    if len(predictions) == 0:
        raise UserError(f"split {predictions.split!r} has no image, so there is nothing to judge")
    return metrics
