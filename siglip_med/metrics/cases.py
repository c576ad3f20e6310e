"""One answer per case: the scores of its images pooled into one row, and what that gains over single images."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from siglip_med.core.case_pooling import CasePooling, pool_logits
from siglip_med.metrics.bootstrap import Bootstrap, Interval
from siglip_med.metrics.headline import headline_metrics
from siglip_med.metrics.names import KEY_METRICS
from siglip_med.metrics.predictions import Predictions
from siglip_med.metrics.ranking import condition_order
from siglip_med.metrics.resampling import per_image_values

PER_CASE = "case_"
"""What the names of metrics of cases begin with."""
IN_CASES = ("r_at_1", "mrr")


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


def case_metrics(predictions: Predictions) -> dict[str, float]:
    """``case_`` and the name of each of `KEY_METRICS` -> value per case; nothing where no case has several images."""
    if not has_cases(predictions):
        return {}
    values = headline_metrics(per_case(predictions))
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


def against_images(predictions: Predictions, bootstrap: Bootstrap) -> tuple[CaseGain, ...]:
    """`CaseGain` of each of `IN_CASES`, over all cases and over those with several images; a UserError for no image."""
    pooled, case = per_case(predictions), np.unique(predictions.cases, return_inverse=True)[1]
    sizes = np.bincount(case)
    singles, ones = (per_image_values(one, condition_order(one.logits, one.positive)) for one in (predictions, pooled))
    found: list[CaseGain] = []
    means = [(np.bincount(case, weights=singles[name]) / sizes, ones[name]) for name in IN_CASES]
    parts = np.stack([part for single, one in means for part in (single, one, one - single)], axis=1)
    for several, chosen in ((False, sizes > 0), (True, sizes > 1)):
        if chosen.any():
            rows, count = iter(bootstrap.ratios(parts[chosen], np.ones_like(parts[chosen]))), int(chosen.sum())
            found += [CaseGain(name, several, count, next(rows), next(rows), next(rows)) for name in IN_CASES]
    return tuple(sorted(found, key=lambda one: IN_CASES.index(one.metric)))
