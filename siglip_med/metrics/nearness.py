"""Numbers by how alike the nearest training image looks: what a model remembers, and what it can do beyond."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from siglip_med.metrics.bootstrap import Bootstrap
from siglip_med.metrics.headline import headline_metrics
from siglip_med.metrics.predictions import Predictions

FAR_HALF = "far_half_"
"""What the names of metrics of the half farthest from training begin with."""
IN_FAR_HALF = ("r_at_1", "mrr")


def far_half(predictions: Predictions) -> Predictions | None:
    """The images whose nearest training image looks no more alike than the median; None where that is not known.

    Examples:
        >>> predictions = Predictions.of([[1.0, 0.0]] * 4, [[1, 0]] * 4)
        >>> far_half(predictions) is None
        True
        >>> from dataclasses import replace
        >>> far_half(replace(predictions, nearest=np.array([0.9, 0.5, 0.7, 0.8]))).frame["image"].tolist()
        ['1', '2']
    """
    nearest = predictions.nearest
    return predictions.take(nearest <= np.median(nearest)) if len(nearest) else None


def far_half_metrics(predictions: Predictions) -> dict[str, float]:
    """``far_half_r_at_1`` and ``far_half_mrr``; nothing where it is not known how near the training images are."""
    far = far_half(predictions)
    values = {} if far is None else headline_metrics(far)
    return {FAR_HALF + name: values[name] for name in IN_FAR_HALF if name in values}


def by_nearness(predictions: Predictions, metrics: Iterable[str], bootstrap: Bootstrap) -> pd.DataFrame:
    """Metrics by quarters of the cosine to the nearest training image, the farthest first.

    Returns:
        A row per quarter, of which equal cosines leave fewer: ``low`` and ``high`` (cosines), ``images``, ``cases``,
        each metric, ``<metric>_low`` and ``<metric>_high``. No row where the cosines are not known.
    """
    nearest, names, rows = predictions.nearest, tuple(metrics), []
    quarter = np.searchsorted(np.quantile(nearest, (0.25, 0.5, 0.75)), nearest) if len(nearest) else nearest
    for place in np.unique(quarter):
        part = predictions.take(quarter == place)
        row: dict[str, float] = {
            "low": float(part.nearest.min()),
            "high": float(part.nearest.max()),
            "images": len(part),
            "cases": len(np.unique(part.cases)),
        }
        for metric, interval in bootstrap.intervals(part, names).items():
            row |= {metric: interval.estimate, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)
