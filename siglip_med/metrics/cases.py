"""One answer a case: the scores of a case's images pooled into one row, and what that gains over its single images."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import pandas as pd

from siglip_med.metrics.bootstrap import Bootstrap, Interval
from siglip_med.metrics.headline import headline_metrics
from siglip_med.metrics.names import KEY_METRICS
from siglip_med.metrics.predictions import Predictions
from siglip_med.metrics.ranking import condition_order
from siglip_med.metrics.resampling import Scores, per_image_values

CasePooling = Literal["mean_logit", "mean_probability", "max", "noisy_or"]
POOLINGS: tuple[CasePooling, ...] = get_args(CasePooling)
PER_CASE = "case_"
"""What the names of metrics of cases begin with."""
IN_CASES = ("r_at_1", "mrr")


def pool_logits(logits: np.ndarray, case: np.ndarray, how: CasePooling = "mean_logit") -> np.ndarray:
    """One row of logits a case.

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


def has_cases(predictions: Predictions) -> bool:
    """Whether a case has several images; where none has, numbers per case would be those per image."""
    return len(np.unique(predictions.cases)) < len(predictions)


def per_case(predictions: Predictions, how: CasePooling = "mean_logit") -> Predictions:
    """The same predictions with one row a case, in the order of the cases' names.

    Unfamiliar images are left out of a case that has others; a case is as familiar as its most familiar image. Labels
    are the largest weights of any of its images, the primary one is its first image's. What its images do not agree on
    (a site) is unknown; embeddings and nearness are those of images, and left out.

    Examples:
        >>> images = Predictions.of([[2.0, 0.0], [0.0, 4.0]], [[0, 1], [0, 1]], cases=["a", "a"])
        >>> per_case(images).logits.tolist(), per_case(images).cases.tolist()
        ([[1.0, 2.0]], ['a'])
    """
    p = predictions
    names, first, case = np.unique(p.cases, return_index=True, return_inverse=True)
    counted = ~p.unfamiliar
    counted |= ~np.isin(case, case[counted])
    labels, familiar = np.zeros((len(names), p.labels.shape[1]), dtype=np.float32), np.full(len(names), -np.inf)
    np.maximum.at(labels, case, p.labels)
    if len(p.familiarity):
        np.maximum.at(familiar, case, p.familiarity)
    texts = p.frame.to_numpy(dtype=object)
    agreed = np.ones((len(names), texts.shape[1]), dtype=bool)
    np.logical_and.at(agreed, case, texts == texts[first[case]])
    frame = pd.DataFrame(np.where(agreed, texts[first], ""), columns=p.frame.columns)
    return replace(
        p,
        logits=pool_logits(p.logits[counted], case[counted], how).astype(np.float32),
        labels=labels,
        primary=p.primary[first],
        frame=frame.assign(image=names, image_id=names),
        image_embeddings=np.empty((0, 0), dtype=np.float32),
        nearest=np.empty(0, dtype=np.float32),
        familiarity=familiar.astype(np.float32) if len(p.familiarity) else p.familiarity,
        meta=p.meta | {"pooling": how},
    )


def case_metrics(predictions: Predictions, how: CasePooling = "mean_logit") -> dict[str, float]:
    """``case_`` and the name of each of `KEY_METRICS` -> value per case; nothing where no case has several images."""
    if not has_cases(predictions):
        return {}
    values = headline_metrics(per_case(predictions, how))
    return {PER_CASE + name: values[name] for name in KEY_METRICS}


@dataclass(frozen=True)
class CaseGain:
    """A metric over ``count`` cases (all, or those with several images): by image, by case, and the paired gain.

    Images are weighted so that cases weigh alike.
    """

    metric: str
    several: bool
    count: int
    image: Interval
    case: Interval
    gain: Interval


def against_images(
    predictions: Predictions, bootstrap: Bootstrap, how: CasePooling = "mean_logit"
) -> tuple[CaseGain, ...]:
    """`CaseGain` of each of `IN_CASES`, over all cases and over those with several images; a UserError for no image."""
    pooled, case = per_case(predictions, how), np.unique(predictions.cases, return_inverse=True)[1]
    sizes = np.bincount(case)
    singles, ones = (
        per_image_values(scores, condition_order(scores.logits, scores.labels > 0))
        for scores in (Scores.of(predictions), Scores.of(pooled))
    )
    found = []
    for name in IN_CASES:
        single, one = np.bincount(case, weights=singles[name]) / sizes, ones[name]
        for several, chosen in ((False, sizes > 0), (True, sizes > 1)):
            if chosen.any():
                parts = [bootstrap.mean(part[chosen], pooled.cases[chosen]) for part in (single, one, one - single)]
                found.append(CaseGain(name, several, int(chosen.sum()), *parts))
    return tuple(found)
