"""Which conditions a model answers with: one that names the same few for everybody can still have a high R@1."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siglip_med.metrics.malignancy import MALIGNANT, malignant
from siglip_med.metrics.predictions import Predictions


@dataclass(frozen=True)
class Answers:
    """First answers of a split: ``[C]`` counts, the most frequent one's share, and the share that lists it.

    ``never``: conditions that the split lists and no first answer names, malignant ones first, then by images.
    """

    counts: np.ndarray
    most_frequent: str
    share: float
    listed: float
    never: tuple[str, ...]
    present: int


def answers(predictions: Predictions, categories: Sequence[str] = MALIGNANT) -> Answers:
    """Counts the first answers of at least one image; ``categories`` of ICD-10-CM are malignant.

    Examples:
        >>> found = answers(Predictions.of([[2.0, 1.0], [2.0, 1.0]], [[1, 0], [0, 1]]))
        >>> found.most_frequent, found.share, found.listed, found.never
        ('condition 0', 1.0, 0.5, ('condition 1',))
    """
    positive = predictions.positive
    counts = np.bincount(predictions.first, minlength=positive.shape[1])
    most, present = int(counts.argmax()), positive.any(axis=0)
    gravest = np.lexsort((-positive.sum(axis=0), ~malignant(predictions.codes, categories)))
    unseen = np.asarray(present) & (counts == 0)
    never = tuple(np.array(predictions.conditions)[gravest[unseen[gravest]]].tolist())
    return Answers(
        counts=counts,
        most_frequent=predictions.conditions[most],
        share=float(counts[most] / len(predictions)),
        listed=float(positive[:, most].mean()),
        never=never,
        present=int(present.sum()),
    )
