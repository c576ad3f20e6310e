"""Yes or no for each condition: thresholds chosen on validation, and what they give on the test split."""

import numpy as np
import pandas as pd

from siglip_med.core.errors import UserError
from siglip_med.metrics.auc import auc_per_condition
from siglip_med.metrics.predictions import Predictions
from siglip_med.metrics.resampling import mean_of_defined

_COLUMNS = ("precision", "recall", "f1", "accuracy", "auc", "average_precision")


def choose_thresholds(predictions: Predictions, minimum_positives: int = 5) -> np.ndarray:
    """Threshold of each condition that maximizes its F1.

    Args:
        predictions: the validation split, never the one that will be judged.
        minimum_positives: a condition with fewer positive images has too few to choose by, and takes the threshold that
            maximizes F1 over all its like pooled (all N x C pairs).

    Returns:
        ``[C]`` float64 logits; an image is called positive where its logit is at least the threshold (midway between
        the last score called positive and the next one). Source: Lipton et al. 2014, arXiv 1402.1892 (F1-optimal
        thresholds).

    Raises:
        UserError: no image, or no positive condition.
    """
    logits, positive = predictions.logits.astype(np.float64), predictions.positive
    if not positive.any():
        raise UserError(f"split {predictions.split!r}: thresholds need images with listed conditions, there are none")
    pooled = _best_threshold(logits.ravel(), positive.ravel())
    enough = positive.sum(axis=0) >= minimum_positives
    return np.array(
        [_best_threshold(logits[:, c], positive[:, c]) if enough[c] else pooled for c in range(logits.shape[1])]
    )


def _best_threshold(scores: np.ndarray, positive: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], positive[order].cumsum()
    f1 = 2.0 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    # only the last of equal scores is a possible cut
    f1[:-1][ordered[:-1] == ordered[1:]] = -1.0
    cut = int(f1.argmax())
    return float(ordered[cut] if cut + 1 == len(ordered) else (ordered[cut] + ordered[cut + 1]) / 2)


def classification_table(predictions: Predictions, thresholds: np.ndarray) -> pd.DataFrame:
    """Precision, recall, F1, accuracy, AUC and AP of each condition against the rest at ``[C]`` thresholds.

    Returns:
        C rows: ``condition``, ``code``, ``group``, ``positives``, ``predicted``, then the six metrics. NaN where
        undefined: precision without a predicted positive; recall, F1, AUC and average precision without a true one.
    """
    positive, called = predictions.positive, predictions.logits >= thresholds
    positives, predicted = positive.sum(axis=0), called.sum(axis=0)
    correct = (positive & called).sum(axis=0)
    auc, average_precision = auc_per_condition(predictions.logits, positive)
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = {
            "condition": predictions.conditions,
            "code": predictions.codes,
            "group": predictions.groups,
            "positives": positives,
            "predicted": predicted,
            "precision": correct / predicted,
            "recall": correct / positives,
            "f1": np.where(positives > 0, 2.0 * correct / (positives + predicted), np.nan),
            "accuracy": (positive == called).mean(axis=0),
            "auc": auc,
            "average_precision": average_precision,
        }
    return pd.DataFrame(columns)


def classification_summary(validation: Predictions, predictions: Predictions) -> dict[str, float]:
    """Means over conditions of `classification_table`, and how many conditions each mean is over.

    Returns:
        ``thresholded_macro_precision``, ... and ``defined_precision``, ...: the conditions where the metric is
        defined; the others are left out. (``macro_f1`` of the headline judges the first prediction, with no threshold.)
    """
    table, result = classification_table(predictions, choose_thresholds(validation)), {}
    for name in _COLUMNS:
        values = table[name].to_numpy(dtype=np.float64)
        result[f"thresholded_macro_{name}"] = float(mean_of_defined(values))
        result[f"defined_{name}"] = float(np.isfinite(values).sum())
    return result


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """``[C, C]`` int: images by primary condition (row) and first prediction (column).

    A first prediction that is positive, though not primary, counts as the primary condition: it is no mistake.
    """
    top = predictions.first
    answer = np.where(predictions.positive[np.arange(len(top)), top], predictions.primary, top)
    size = len(predictions.conditions)
    return np.bincount(predictions.primary * size + answer, minlength=size * size).reshape(size, size)
