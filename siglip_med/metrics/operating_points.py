"""Yes or no at a fixed sensitivity or specificity: the threshold from validation, and what it reaches on the test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binomtest

from siglip_med.metrics.auc import OneVsRest
from siglip_med.metrics.bootstrap import Bootstrap, Interval, by_case
from siglip_med.metrics.predictions import Predictions

Fixed = Literal["specificity", "sensitivity"]
REACHED = ("sensitivity", "specificity", "ppv", "npv")
UNDEFINED = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class YesNo:
    """K yes-or-no questions to N images.

    Attributes:
        scores: ``[N, K]`` float64, higher is more of a yes.
        positive: ``[N, K]`` bool, the truth.
        cases: ``[N]`` case of each image.
    """

    scores: np.ndarray
    positive: np.ndarray
    cases: np.ndarray

    @classmethod
    def of_conditions(cls, predictions: Predictions) -> "YesNo":
        """Is each condition listed? By its logit."""
        return cls(predictions.logits.astype(np.float64), predictions.positive, predictions.cases)

    @property
    def sizes(self) -> np.ndarray:
        """``[2, K]`` cases with an image that is negative, and that is positive."""
        groups = (~self.positive, self.positive)
        return np.array([(by_case(group, self.cases) > 0).sum(axis=0) for group in groups])


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the score, and what it reaches on the test split: name of `REACHED` -> interval.

    A threshold or a value is NaN where its group is too small.
    """

    fixed: Fixed
    share: float
    threshold: float
    reached: dict[str, Interval]


def threshold_at(scores: np.ndarray, positive: np.ndarray, fixed: Fixed, share: float) -> float:
    """The threshold with the fixed specificity (or sensitivity) at least ``share``, and the other one highest.

    From ``[N]`` scores and ``[N]`` bool of validation, where the group whose share is fixed is not empty. Yes is a
    score of at least that; it lies midway to the next score of validation.
    """
    sign = 1.0 if fixed == "specificity" else -1.0
    group = np.sort(sign * scores[positive == (fixed == "sensitivity")])
    edge = group[int(np.ceil(share * len(group) - 1e-9)) - 1]  # a hair: 0.9 of 10 is 9, not 10
    beyond = sign * scores[sign * scores > edge]
    return float(sign * ((edge + beyond.min()) / 2 if len(beyond) else np.nextafter(edge, np.inf)))


def operating_points(
    validation: YesNo, test: YesNo, points: Sequence[tuple[Fixed, float]], smallest: int, bootstrap: Bootstrap
) -> list[list[OperatingPoint]]:
    """What thresholds of validation reach on the test split.

    Sensitivity = TP / (TP + FN), specificity = TN / (TN + FP), PPV = TP / (TP + FP), NPV = TN / (TN + FN), the last two
    at the prevalence of the test split (Altman & Bland, BMJ 1994;308:1552 and 309:102). Each is a mean over a group of
    images. The intervals resample cases; where all of a group are right, or wrong, resampling says nothing and the
    exact interval of that many cases takes its place (Clopper & Pearson 1934).

    Args:
        validation: chooses the thresholds; K questions.
        test: is judged; the same questions.
        points: what is fixed, and at which value.
        smallest: cases that a group must have: the one that a threshold is chosen on, and the one of each value (PPV
            and NPV: those called positive or negative, and besides both kinds of the test).
        bootstrap: of the intervals.

    Returns:
        K lists of one `OperatingPoint` each of ``points``.
    """
    enough, asked, sums, counts = validation.sizes >= smallest, [], [], []
    case = np.unique(test.cases, return_inverse=True)[1]  # numbers are grouped faster than names
    for k in range(test.scores.shape[1]):
        for fixed, share in points:
            threshold = float("nan")
            if enough[int(fixed == "sensitivity"), k]:
                threshold = threshold_at(validation.scores[:, k], validation.positive[:, k], fixed, share)
            values = _judged(test.scores[:, k], test.positive[:, k], threshold)
            sums.append(by_case(np.nan_to_num(values), case))
            counts.append(by_case(np.isfinite(values), case))
            asked.append((k, fixed, share, threshold))
    drawn = iter(bootstrap.ratios(np.concatenate(sums, axis=1), np.concatenate(counts, axis=1)))
    both = np.all(test.sizes >= smallest, axis=0)
    found: list[list[OperatingPoint]] = [[] for _ in both]
    for (k, fixed, share, threshold), count in zip(asked, counts, strict=True):
        reached = {
            name: exact_where_certain(interval, int(size), bootstrap.coverage)
            if np.isfinite(threshold) and size >= smallest and (both[k] or name[1:] != "pv")
            else UNDEFINED
            for name, size, interval in zip(REACHED, (count > 0).sum(axis=0), drawn, strict=False)
        }
        found[k].append(OperatingPoint(fixed, share, threshold, reached))
    return found


def _judged(scores: np.ndarray, positive: np.ndarray, threshold: float) -> np.ndarray:
    """``[N, 4]``: is each image right, in the order of `REACHED`; NaN where it is not of the group."""
    called = scores >= threshold
    right, groups = called == positive, (positive, ~positive, called, ~called)
    return np.stack([np.where(group, right, np.nan) for group in groups], axis=1)


def exact_where_certain(interval: Interval, cases: int, coverage: float) -> Interval:
    """The interval of a share; that of Clopper & Pearson 1934 where all of its cases agree.

    Examples:
        >>> round(exact_where_certain(Interval(1.0, 1.0, 1.0), 10, 0.95).low, 3)
        0.692
    """
    if interval.estimate not in (0.0, 1.0):
        return interval
    exact = binomtest(round(interval.estimate) * cases, cases).proportion_ci(coverage)
    return Interval(interval.estimate, float(exact.low), float(exact.high))


def auc_intervals(questions: YesNo, smallest: int, bootstrap: Bootstrap) -> list[Interval]:
    """Area under the ROC curve of each question; undefined with fewer than ``smallest`` cases of either kind.

    The bounds are NaN where every positive image scores above every negative one: resampling says nothing there.
    """
    names, case = np.unique(questions.cases, return_inverse=True)
    asked = np.flatnonzero((questions.sizes >= smallest).all(axis=0))
    sorted_once = [OneVsRest.build(questions.scores[:, k], questions.positive[:, k], case, len(names)) for k in asked]

    def areas(weights: np.ndarray) -> list[np.ndarray]:
        transposed = np.ascontiguousarray(weights.T)
        return [one.auc_and_precision(transposed)[0] for one in sorted_once]

    drawn = [areas(weights) for weights in bootstrap.weights(len(names), bootstrap.seed)]
    found = [UNDEFINED] * questions.scores.shape[1]
    for place, k in enumerate(asked):
        whole = float(sorted_once[place].auc_and_precision(np.ones((len(names), 1)))[0][0])
        values = np.concatenate([chunk[place] for chunk in drawn])
        found[k] = bootstrap.interval(whole, values if 0.0 < whole < 1.0 else np.empty(0))
    return found
