"""Numbers of the test images that look least like training: what a model can do beyond what it remembers."""

import numpy as np

from siglip_med.metrics.headline import headline_metrics
from siglip_med.metrics.predictions import Predictions

FAR_HALF = "far_half_"
"""What the names of metrics of the half farthest from training begin with."""
IN_FAR_HALF = ("r_at_1", "mrr")


def far_half(predictions: Predictions) -> Predictions | None:
    """The images whose nearest training image looks no more alike than the median; None where that is not known."""
    nearest = predictions.nearest
    return predictions.take(nearest <= np.median(nearest)) if len(nearest) else None


def far_half_metrics(predictions: Predictions) -> dict[str, float]:
    """``far_half_r_at_1`` and ``far_half_mrr``; nothing where it is not known how near the training images are."""
    far = far_half(predictions)
    values = {} if far is None else headline_metrics(far)
    return {FAR_HALF + name: values[name] for name in IN_FAR_HALF if name in values}
