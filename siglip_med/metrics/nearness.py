"""Numbers of the test images that look least like training: what a model can do beyond what it remembers."""

import numpy as np

from siglip_med.core.ranges import UNFAMILIAR
from siglip_med.metrics.headline import headline_metrics
from siglip_med.metrics.predictions import Predictions

FAR_HALF = "far_half_"
"""What the names of metrics of the half farthest from training begin with."""
IN_FAR_HALF = ("r_at_1", "mrr")
IN_UNFAMILIAR = ("r_at_1", "r_at_5", "mrr", "ece")


def far_half(predictions: Predictions) -> Predictions | None:
    """The images whose nearest training image looks no more alike than the median; None where that is not known."""
    nearest = predictions.nearest
    return predictions.take(nearest <= np.median(nearest)) if len(nearest) else None


def far_half_metrics(predictions: Predictions) -> dict[str, float]:
    """``far_half_r_at_1`` and ``far_half_mrr``; nothing where it is not known how near the training images are."""
    far = far_half(predictions)
    values = {} if far is None else headline_metrics(far)
    return {FAR_HALF + name: values[name] for name in IN_FAR_HALF if name in values}


def without_unfamiliar(predictions: Predictions) -> tuple[dict[str, float], list[str]]:
    """`IN_UNFAMILIAR` of the familiar images with ``unfamiliar``, the count of the others; and a sentence.

    Nothing where familiarity is not known; the metrics are NaN where no image is familiar.
    """
    if not len(predictions.familiarity):
        return {}, []
    values = headline_metrics(predictions.take(~predictions.unfamiliar))
    count, r1 = int(predictions.unfamiliar.sum()), headline_metrics(predictions)["r_at_1"]
    said = f"{count:,} of {len(predictions):,} images are unfamiliar (p < {UNFAMILIAR:g}); without them R@1 is "
    said += f"{values['r_at_1']:.3f}, with them {r1:.3f}"
    return {"unfamiliar": count, **{name: values[name] for name in IN_UNFAMILIAR}}, [said]
