"""One row of logits for several: the images of a case, or the models of an ensemble."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

CasePooling = Literal["mean_logit", "mean_probability", "max", "noisy_or"]
Average = Literal["mean_logit", "mean_probability"]
POOLINGS: tuple[CasePooling, ...] = get_args(CasePooling)


def pool_logits(logits: np.ndarray, case: np.ndarray, how: CasePooling = "mean_logit") -> np.ndarray:
    """One row of logits per case.

    Args:
        logits: ``[N, C]`` on the sigmoid scale, p = sigmoid(logit); calibrated ones where probabilities are pooled.
        case: ``[N]`` int from 0 to G - 1, each of them at least once.
        how: ``mean_logit``: the mean (a geometric mean of the odds: Genest & Zidek 1986); ``mean_probability``: the
            logit of the mean of p; ``max``: the largest; ``noisy_or``: the logit of 1 - product of (1 - p), one image
            being enough (Pearl 1988).

    Returns:
        ``[G, C]`` float64.
    """
    order = np.argsort(case, kind="stable")
    starts = np.searchsorted(case[order], np.arange(case.max(initial=-1) + 1))
    scores, counts = logits[order].astype(np.float64), np.bincount(case)[:, None]
    if how == "max":
        return np.maximum.reduceat(scores, starts)
    if how == "mean_logit":
        return np.add.reduceat(scores, starts) / counts
    if how == "mean_probability":  # the odds of a mean are a sum of p over a sum of 1 - p
        yes, no = (np.logaddexp.reduceat(-np.logaddexp(0.0, sign * scores), starts) for sign in (-1.0, 1.0))
        return yes - no
    none = -np.add.reduceat(np.logaddexp(0.0, scores), starts)  # log of the product of 1 - p
    return np.log(-np.expm1(none)) - none


def average_logits(logits: Sequence[np.ndarray], how: Average = "mean_logit") -> np.ndarray:
    """``[N, C]`` float64 of M models' calibrated ``[N, C]`` logits of the same images; ``how`` as in `pool_logits`.

    Examples:
        >>> average_logits([np.array([[0.0, 4.0]]), np.array([[2.0, 0.0]])]).tolist()
        [[1.0, 2.0]]
    """
    return pool_logits(np.concatenate(logits), np.tile(np.arange(len(logits[0])), len(logits)), how)
