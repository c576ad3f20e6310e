"""The headline metrics, under the names that logs, leaderboards and reports use. Formulas: ``docs/metrics.md``."""

import numpy as np

from siglip_med.metrics.hierarchy import spearman_embedding_distance, spearman_image_prototypes
from siglip_med.metrics.names import HEADLINE_METRICS
from siglip_med.metrics.predictions import Predictions
from siglip_med.metrics.resampling import CaseStatistics


def headline_metrics(predictions: Predictions) -> dict[str, float]:
    """Every headline metric.

    Returns:
        name -> value for `HEADLINE_METRICS`, in that order; NaN where undefined (no positive anywhere, no mistake, no
        embeddings, no chapters). Means over conditions leave out those that are undefined: `defined_conditions` counts.

    Examples:
        >>> predictions = Predictions.of([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [[1, 0, 0], [0, 1, 0]])
        >>> metrics = headline_metrics(predictions)
        >>> metrics["r_at_1"], metrics["mrr"], metrics["icd_distance_all"]
        (0.5, 0.75, 0.5)
    """
    p = predictions
    values = CaseStatistics.build(p).whole() | {
        "loss": balanced_loss(p.logits, p.labels),
        "spearman_text_d": spearman_embedding_distance(p.text_embeddings, p.dissimilarity),
        "spearman_image_d": spearman_image_prototypes(p.image_embeddings, p.primary, p.dissimilarity),
    }
    return {name: values[name] for name in HEADLINE_METRICS}


def balanced_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Balanced multi-positive sigmoid loss in nats: mean over positive pairs, by label weight, plus over negative ones.

    NaN without pairs of both kinds. Source: Zhai et al. 2023, arXiv 2303.15343, several positives.
    """
    z, positive = logits.astype(np.float64), labels.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        of_positives = (positive * np.logaddexp(0.0, -z)).sum() / positive.sum()
        of_negatives = ((1.0 - positive) * np.logaddexp(0.0, z)).sum() / (1.0 - positive).sum()
    return float(of_positives + of_negatives)


def defined_conditions(predictions: Predictions) -> dict[str, int]:
    """How many of the C conditions each mean over conditions is taken over.

    Returns:
        ``conditions``: C; ``primary``: conditions that are some image's primary one (macro R@K, macro F1);
        ``positive``: with a positive image (text-to-image mAP); ``auc``: with a positive and a negative
        image (macro AUC).
    """
    positive, negative = predictions.positive.any(axis=0), (~predictions.positive).any(axis=0)
    return {
        "conditions": len(predictions.conditions),
        "primary": len(np.unique(predictions.primary)),
        "positive": int(positive.sum()),
        "auc": int((positive & negative).sum()),
    }
