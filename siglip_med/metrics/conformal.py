"""Prediction sets with a stated coverage: a differential that is as long as the image is hard.

Split conformal prediction (Vovk et al. 2005; Papadopoulos et al. 2002; tutorial: Angelopoulos & Bates 2021, arXiv
2107.07511). MAPIE's split classifier covers one true label; here an image lists several, so the score of an image is
that of its best, its primary or its worst label. For the primary reading the sets equal MAPIE's, which the tests check.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import softmax

from siglip_med.core.errors import UserError
from siglip_med.metrics.blocks import blocks
from siglip_med.metrics.predictions import Predictions
from siglip_med.metrics.ranking import condition_order

Target = Literal["any", "primary", "all"]
Score = Literal["lac", "aps"]


@dataclass(frozen=True)
class ConformalSets:
    """A calibrated rule: condition c is in the set of image i where its nonconformity is at most ``threshold``.

    Attributes:
        threshold: the conformal quantile; infinite where validation is too small to promise the coverage (every
            condition is then in every set).
        coverage: the stated coverage.
        target: what the set promises to hold: "any" one of the labels, the "primary" label, or "all" of them.
        score: nonconformity, see `nonconformity`.
        temperature: divides the logits before the softmax.
    """

    threshold: float
    coverage: float
    target: Target
    score: Score
    temperature: float

    def sets(self, predictions: Predictions) -> np.ndarray:
        """``[N, C]`` bool, the prediction set of each image: all conditions where the image is unfamiliar."""
        inside = np.empty(predictions.logits.shape, dtype=bool)
        for rows in blocks(len(inside)):
            inside[rows] = nonconformity(predictions.logits[rows], self.score, self.temperature) <= self.threshold
        return inside | predictions.unfamiliar[:, None]


def nonconformity(logits: np.ndarray, score: Score, temperature: float = 1.0) -> np.ndarray:
    """Nonconformity of each condition for each image, in [0, 1]; p is softmax(logits / temperature).

    Args:
        logits: ``[N, C]``.
        score: "lac": 1 - p_c (Sadinle et al., JASA 2019; the smallest sets on average, empty ones possible); "aps": the
            sum of p over the conditions at least as likely as c (Romano et al., NeurIPS 2020, without the random term;
            sets that adapt to the image).
        temperature: divides the logits.

    Returns:
        ``[N, C]`` float64.

    Examples:
        >>> nonconformity(np.log([[0.5, 0.3, 0.2]]), "aps").round(3).tolist()
        [[0.5, 0.8, 1.0]]
    """
    probability = softmax(logits.astype(np.float64) / temperature, axis=1)
    if score == "lac":
        return 1.0 - probability
    order = np.argsort(-probability, axis=1, kind="stable")
    cumulative = np.take_along_axis(probability, order, axis=1).cumsum(axis=1)
    result = np.empty_like(cumulative)
    np.put_along_axis(result, order, cumulative, axis=1)
    return result


def fit_conformal(
    predictions: Predictions,
    coverage: float = 0.9,
    target: Target = "any",
    score: Score = "lac",
    temperature: float = 1.0,
) -> ConformalSets:
    """Choose the threshold on validation.

    The promise holds on average over images drawn like those of validation. Images of one case are not independent, so
    with many images per case the realised coverage strays further from the stated one than n alone suggests.

    Args:
        predictions: the validation split, never the one that will be judged.
        coverage: share of images whose set keeps the promise, in (0, 1).
        target: see `ConformalSets`.
        score: see `nonconformity`.
        temperature: divides the logits; the one of `fit_calibration` gives a softmax on a sensible scale.

    Raises:
        UserError: the coverage is not strictly between 0 and 1, or there is no image.

    Examples:
        >>> predictions = Predictions.of([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]], [[1, 0], [0, 1], [1, 0]])
        >>> fit_conformal(predictions, coverage=0.75).sets(predictions).tolist()
        [[True, False], [False, True], [True, False]]
    """
    if not 0.0 < coverage < 1.0:
        raise UserError(f"coverage is {coverage}; a stated coverage lies strictly between 0 and 1, for example 0.9")
    if len(predictions) == 0:
        raise UserError(f"split {predictions.split!r} has no image to choose the size of the prediction sets by")
    scores, positive = nonconformity(predictions.logits, score, temperature), predictions.positive
    rows = np.arange(len(predictions))
    image_score = {
        "any": np.where(positive, scores, np.inf).min(axis=1),
        "primary": scores[rows, predictions.primary],
        "all": np.where(positive, scores, -np.inf).max(axis=1),
    }[target]
    rank = int(np.ceil((len(rows) + 1) * coverage - 1e-9))
    threshold = float(np.sort(image_score)[rank - 1]) if rank <= len(rows) else float("inf")
    return ConformalSets(threshold, coverage, target, score, temperature)


def conformal_report(rule: ConformalSets, predictions: Predictions) -> dict[str, float]:
    """What the sets hold and how long they are, beside the fixed top 5.

    Returns:
        ``stated_coverage``; ``coverage_any``, ``coverage_primary``, ``coverage_all``: share of images whose set holds
        one label, the primary, every label; ``mean_set_size``, ``median_set_size``, ``empty_sets`` (share); the same
        for the fixed top 5: ``top5_coverage_any``, ``top5_coverage_primary``, ``top5_coverage_all``, ``top5_size``.

    Examples:
        >>> predictions = Predictions.of([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]], [[1, 0], [0, 1], [1, 0]])
        >>> conformal_report(fit_conformal(predictions, coverage=0.75), predictions)["mean_set_size"]
        1.0
    """
    sets = rule.sets(predictions)
    order = condition_order(predictions.logits, predictions.positive)
    top5 = np.zeros_like(sets)
    np.put_along_axis(top5, order[:, :5], True, axis=1)
    size = sets.sum(axis=1)
    result = {"stated_coverage": rule.coverage} | _coverage(sets, predictions, "")
    result |= {
        "mean_set_size": float(size.mean()),
        "median_set_size": float(np.median(size)),
        "empty_sets": float((size == 0).mean()),
    }
    return result | _coverage(top5, predictions, "top5_") | {"top5_size": float(min(5, sets.shape[1]))}


def _coverage(sets: np.ndarray, predictions: Predictions, prefix: str) -> dict[str, float]:
    positive = predictions.positive
    return {
        f"{prefix}coverage_any": float((sets & positive).any(axis=1).mean()),
        f"{prefix}coverage_primary": float(sets[np.arange(len(sets)), predictions.primary].mean()),
        f"{prefix}coverage_all": float((sets | ~positive).all(axis=1).mean()),
    }
