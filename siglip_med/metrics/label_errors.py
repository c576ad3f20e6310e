"""Labels that look wrong, from predictions of models that never saw the image: confident learning.

Source: Northcutt, Jiang and Chuang, Journal of Artificial Intelligence Research 2021 (arXiv 1911.00068).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelErrors:
    """What predictions say of N given labels.

    Attributes:
        confidence: ``[N]`` probability of the given label; the lower, the more doubtful the label.
        margin: ``[N]`` normalized margin: probability of the given label minus that of the most probable other, -1 to
            1.
        suggested: ``[N]`` int, the most probable other condition.
        confident: ``[N]`` bool: the image counts off the diagonal of the confident joint, so its label is likely wrong.
    """

    confidence: np.ndarray
    margin: np.ndarray
    suggested: np.ndarray
    confident: np.ndarray

    def ranked(self) -> np.ndarray:
        """``[N]`` rows, the most doubtful label first: by confidence, that is by plain loss.

        On photographs with planted errors it found twice as many as the margin, which puts images first that are surely
        taken for a condition that looks alike (docs/data.md).
        """
        return np.argsort(self.confidence, kind="stable")

    def likely(self) -> np.ndarray:
        """Rows whose label is likely wrong, the most doubtful first."""
        order = self.ranked()
        return order[self.confident[order]]


def find_label_errors(probabilities: np.ndarray, given: np.ndarray, positive: np.ndarray | None = None) -> LabelErrors:
    """Compares given labels with predictions that were made without them.

    An image is counted for condition j where its probability of j is at least the mean probability of j over the images
    labeled j; of several such conditions the most probable one. Where that is not the given label, the label is likely
    wrong. Conditions that are listed beside the given one are no mistake.

    Args:
        probabilities: ``[N, C]`` out-of-fold, rows sum to 1.
        given: ``[N]`` int, the given label.
        positive: ``[N, C]`` bool, every condition that an image lists; the given label alone where None.

    Raises:
        ValueError: the shapes do not fit.
    """
    count, conditions = probabilities.shape
    if given.shape != (count,) or (positive is not None and positive.shape != probabilities.shape):
        raise ValueError(f"probabilities {probabilities.shape} and labels {given.shape} do not fit")
    rows = np.arange(count)
    own = np.zeros((count, conditions), dtype=bool) if positive is None else positive.copy()
    own[rows, given] = True
    others = np.where(own, -np.inf, probabilities)
    suggested = np.argmax(others, axis=1)
    margin = probabilities[rows, given] - np.where(own.all(axis=1), 0.0, others[rows, suggested])
    labeled = np.bincount(given, minlength=conditions)
    sums = np.bincount(given, weights=probabilities[rows, given], minlength=conditions)
    threshold = np.where(labeled > 0, sums / np.maximum(labeled, 1), np.inf)
    passing = np.where(probabilities >= threshold, probabilities, -np.inf)
    counted = np.isfinite(passing).any(axis=1)
    predicted = np.argmax(passing, axis=1)
    return LabelErrors(probabilities[rows, given], margin, suggested, counted & ~own[rows, predicted])
