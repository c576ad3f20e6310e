"""A model on another clinic's images, beside its own test: the difference, and what of it the frequencies explain."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from siglip_med.core.errors import UserError
from siglip_med.metrics.bootstrap import Bootstrap, Interval, PairedResult
from siglip_med.metrics.conformal import ConformalSets
from siglip_med.metrics.predictions import Predictions
from siglip_med.metrics.resampling import CaseStatistics, mean_of_defined
from siglip_med.metrics.shift import BiasCorrected, em_prior, fit_bias_corrected

EXTERNAL_METRICS = (
    "r_at_1", "r_at_5", "mrr", "macro_r_at_1", "icd_distance_all", "icd_distance_top5", "macro_auc", "ece",
)  # fmt: skip
SET_METRICS = ("set_coverage", "set_size")
"""Of the prediction sets that validation chose: how many hold a positive condition, and how long they are."""
REWEIGHTED = ("r_at_1", "r_at_5")
LABELLED_CASES = (0, 10, 50, 200)
DRAWS = 5
_RANKED = ("r_at_1", "r_at_5", "mrr")


@dataclass(frozen=True)
class Yardstick:
    """Which conditions are right, for both sets alike: any of those that a coarse label covers.

    On the internal test a condition that the external set names coarsely alone is judged as coarsely.

    Attributes:
        accept: ``[E, C]`` bool, right for each external label; none of an unknown one.
        group: ``[C]`` the condition as which each is counted: the one of its set with the most training images.
        sets: ``[C, C]`` bool, right for each condition on the internal test: the smallest set that holds it.
        train_counts: ``[C]``.
    """

    accept: np.ndarray
    group: np.ndarray
    sets: np.ndarray
    train_counts: np.ndarray

    @classmethod
    def of(cls, accept: np.ndarray, train_counts: np.ndarray) -> "Yardstick":
        """The yardstick of ``accept``.

        Examples:
            >>> Yardstick.of(np.array([[True, True, False], [False, False, False]]), np.array([1, 5, 9])).group.tolist()
            [1, 1, 2]
        """
        sets = np.eye(accept.shape[1], dtype=bool)
        for condition in np.flatnonzero(accept.any(axis=0)):
            holding = accept[accept[:, condition]]
            sets[condition] = holding[holding.sum(axis=1).argmin()]
        return cls(accept, _commonest(sets, train_counts), sets, train_counts)

    @property
    def known(self) -> np.ndarray:
        """``[C]`` bool, conditions that some external label accepts."""
        return np.asarray(self.accept.any(axis=0))

    @property
    def train_share(self) -> np.ndarray:
        """``[C]`` float64, share of the training images by group, over groups that the external set has."""
        counts = np.bincount(self.group[self.known], self.train_counts[self.known], minlength=len(self.group))
        return counts / max(counts.sum(), 1.0)

    def external(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of ``[N, E]`` external labels: ``[N, C]`` what is right, ``[N]`` the heaviest known one's group or -1."""
        weights = np.where(self.accept.any(axis=1), labels, 0.0)
        heads = _commonest(self.accept, self.train_counts)
        right = (weights > 0).astype(np.float32) @ self.accept.astype(np.float32) > 0
        primary = np.where(right.any(axis=1), heads[weights.argmax(axis=1)], -1)
        return right.astype(np.float32), primary

    def internal(self, predictions: Predictions) -> Predictions:
        """The images of a run's own split whose first condition the external set has, judged as coarsely.

        Raises:
            UserError: there is none.
        """
        rows = self.known[predictions.primary]
        if not rows.any():
            raise UserError(f"split {predictions.split!r}: no image is of a condition that the external set has")
        part = predictions.take(rows)
        right = part.positive.astype(np.float32) @ self.sets.astype(np.float32) > 0
        return replace(part, labels=right.astype(np.float32), primary=self.group[part.primary])


def _commonest(sets: np.ndarray, train_counts: np.ndarray) -> np.ndarray:
    """The condition of each set with the most training images, the first of equal ones."""
    return np.where(sets, train_counts, -1).argmax(axis=1)


@dataclass(frozen=True)
class Compared:
    """One metric on the external set, on the internal test's images of the same conditions, and the difference."""

    external: Interval
    internal: Interval
    difference: Interval


@dataclass(frozen=True)
class Explained:
    """The external metric with conditions as frequent as in training, that less the metric, and its share of the drop.

    The share is undefined (NaN) where there is no drop.
    """

    reweighted: Interval
    change: Interval
    share: Interval


def compare_external(
    external: Predictions,
    internal: Predictions,
    train_share: np.ndarray,
    bootstrap: Bootstrap,
    rule: ConformalSets | None = None,
) -> tuple[dict[str, Compared], dict[str, Explained]]:
    """Judges both sets, each with its cases resampled on its own, and re-weights the external one.

    Post-stratification (Little 1993): each group's mean over its external images, weighted by its share of training;
    groups without an external image, also in a resample, are left out of the shares.

    Args:
        external: with labels of `Yardstick.external`.
        internal: of `Yardstick.internal`.
        train_share: of the `Yardstick`.
        bootstrap: of the intervals; the internal set draws with the seed behind it.
        rule: prediction sets, fitted on the run's validation.

    Returns:
        By metric of `EXTERNAL_METRICS`, with a rule of `SET_METRICS` too, and of `REWEIGHTED`; a UserError where there
        is no image. A label that covers several conditions is a positive of each of them for AUC and calibration.
    """
    ours, theirs = _drawn(internal, bootstrap, 1, None, rule), _drawn(external, bootstrap, 0, train_share, rule)

    def interval(values: np.ndarray) -> Interval:
        return bootstrap.interval(float(values[0]), values[1:])

    compared, explained = {}, {}
    for name in (*EXTERNAL_METRICS, *(SET_METRICS if rule else ())):
        a, b = theirs[name], ours[name]
        compared[name] = Compared(interval(a), interval(b), interval(a - b))
    for name in REWEIGHTED:
        plain, like_training = theirs[name], theirs[f"reweighted_{name}"]
        drop = ours[name] - plain
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(drop[0] > 0, (like_training - plain) / drop, np.nan)
        explained[name] = Explained(interval(like_training), interval(like_training - plain), interval(share))
    return compared, explained


def _drawn(
    predictions: Predictions,
    bootstrap: Bootstrap,
    behind: int,
    train_share: np.ndarray | None = None,
    rule: ConformalSets | None = None,
) -> dict[str, np.ndarray]:
    """Metric -> ``[1 + repetitions]``: of all cases, then of each resample."""
    if not len(predictions):
        raise UserError(f"split {predictions.split!r} has no image, so there is nothing to judge")
    sums = CaseStatistics.build(predictions, predictions.cases, EXTERNAL_METRICS)
    found, sets = [], None if rule is None else rule.sets(predictions)
    case = np.unique(predictions.cases, return_inverse=True)[1]
    extra = [] if sets is None else [(sets & predictions.positive).any(axis=1), sets.sum(axis=1)]
    extra = [np.bincount(case, each) for each in extra]
    draws = bootstrap.weights(sums.cases, bootstrap.seed + behind)
    for weights in chain([np.ones((1, sums.cases))], draws):
        values = {name: one for name, one in sums.values(weights).items() if name in EXTERNAL_METRICS}
        for name, each in zip(SET_METRICS, extra, strict=False):
            values[name] = weights @ each / (weights @ np.bincount(case))
        if train_share is not None:
            support = weights @ sums.support
            share = np.where(support > 0, train_share, 0.0)
            for name in REWEIGHTED:
                with np.errstate(invalid="ignore", divide="ignore"):
                    hits = np.nan_to_num((weights @ sums.macro_hits[f"macro_{name}"]) / support)
                    values[f"reweighted_{name}"] = (share * hits).sum(axis=1) / share.sum(axis=1)
        found.append(values)
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


@dataclass(frozen=True)
class PriorByEM:
    """Frequencies that EM finds in the unlabelled images: ``[C]`` ``prior``, on validation's ``calibration``.

    ``distance``: total variation from the true ones by group, ``distance_before``: that of training's; ``change``: of
    each metric on the same images, adjusted less calibrated.
    """

    calibration: BiasCorrected
    prior: np.ndarray
    distance: float
    distance_before: float
    change: dict[str, PairedResult]

    @property
    def harms(self) -> tuple[str, ...]:
        """Metrics that are lower with it, beyond the interval of the difference."""
        return tuple(name for name, result in self.change.items() if result.high < 0)


def rank_own_labels(
    predictions: Predictions, trained: np.ndarray, bootstrap: Bootstrap
) -> dict[str, dict[str, Interval]]:
    """How well a set's own labels are ranked by their prompts, whether the model was trained on them or not.

    Args:
        predictions: of N images against the E labels.
        trained: ``[E]`` bool, labels that the model was trained on under the same name or code.
        bootstrap: of the intervals.

    Returns:
        Images (all, or by their first label) -> metric -> interval; without the groups that have no image.
    """
    known = trained[predictions.primary]
    groups = {"all": np.ones_like(known), "labels of training": known, "other labels": ~known}
    return {name: bootstrap.intervals(predictions.take(rows), _RANKED) for name, rows in groups.items() if rows.any()}


def adjust_prior(external: Predictions, val: Predictions, group: np.ndarray, bootstrap: Bootstrap) -> PriorByEM:
    """Calibrates on ``val``, finds the external frequencies by EM, and judges the adjusted ranking by the labels."""
    calibration = fit_bias_corrected(val.logits, np.eye(len(group), dtype=bool)[val.primary])
    before = calibration.log_probabilities(external.logits)
    source = np.exp(calibration.log_probabilities(val.logits)).mean(axis=0, dtype=np.float64)
    prior = em_prior(np.exp(before), source)
    after = before + np.log(np.maximum(prior, 1e-12) / np.maximum(source, 1e-12)).astype(np.float32)
    truth = np.bincount(external.primary, minlength=len(group)) / len(external)
    trained = val.train_counts / max(val.train_counts.sum(), 1)
    distances = [
        0.5 * np.abs(np.bincount(group, weights=one, minlength=len(group)) - truth).sum() for one in (prior, trained)
    ]
    change = bootstrap.paired([(external.with_logits(after), external.with_logits(before))], _RANKED)
    return PriorByEM(calibration, prior, float(distances[0]), float(distances[1]), change)


def label_some(
    external: Predictions, start: BiasCorrected, bootstrap: Bootstrap, labelled: Sequence[int] = LABELLED_CASES
) -> tuple[dict[int, dict[str, Interval]], tuple[int, ...]]:
    """What temperature and biases fitted on k labelled cases, from ``start`` on, give on the other cases.

    Of each k `DRAWS` sets of cases are drawn with the bootstrap's seed; the interval is over both: the sets that may be
    labelled, and resamples of the cases that are judged.

    Returns:
        k -> metric -> interval; and the k that are left out, since they are more than half of the cases.
    """
    cases = np.unique(external.cases)
    found: dict[int, dict[str, Interval]] = {}
    for k in (k for k in labelled if k <= len(cases) // 2):
        judged: dict[str, list[np.ndarray]] = {name: [] for name in _RANKED}
        for draw in range(DRAWS if k else 1):
            rng = np.random.default_rng((bootstrap.seed, k, draw))
            chosen = np.isin(external.cases, rng.choice(cases, k, replace=False))
            fit = fit_bias_corrected(external.logits[chosen], external.positive[chosen], start) if k else start
            rest = external.take(~chosen)
            share = replace(bootstrap, repetitions=-(-bootstrap.repetitions // (DRAWS if k else 1)))
            drawn = _drawn(rest.with_logits(fit.log_probabilities(rest.logits)), share, draw)
            for name in _RANKED:
                judged[name].append(drawn[name])
        found[k] = {
            name: bootstrap.interval(
                float(mean_of_defined(np.array([one[0] for one in drawn]))), np.concatenate([one[1:] for one in drawn])
            )
            for name, drawn in judged.items()
        }
    return found, tuple(k for k in labelled if k not in found)
