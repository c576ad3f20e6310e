"""Which conditions a model answers with: one that names the same few for everybody can still have a high R@1."""

from dataclasses import dataclass

import numpy as np

from siglip_med.metrics.predictions import Predictions


@dataclass(frozen=True)
class Answers:
    """First answers of a split: ``[C]`` counts, the most frequent one's share, and the share that lists it."""

    counts: np.ndarray
    most_frequent: str
    share: float
    listed: float
    never: tuple[str, ...]
    present: int


def answers(predictions: Predictions) -> Answers:
    """Counts the first answers of at least one image.

    Examples:
        >>> found = answers(Predictions.of([[2.0, 1.0], [2.0, 1.0]], [[1, 0], [0, 1]]))
        >>> found.most_frequent, found.share, found.listed, found.never
        ('condition 0', 1.0, 0.5, ('condition 1',))
    """
    positive = predictions.positive
    counts = np.bincount(predictions.first, minlength=positive.shape[1])
    most, present = int(counts.argmax()), positive.any(axis=0)
    never = tuple(np.array(predictions.conditions)[present & (counts == 0)].tolist())
    return Answers(
        counts=counts,
        most_frequent=predictions.conditions[most],
        share=float(counts[most] / len(predictions)),
        listed=float(positive[:, most].mean()),
        never=never,
        present=int(present.sum()),
    )
