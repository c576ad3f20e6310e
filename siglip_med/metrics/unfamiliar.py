"""How many images of a split are unlike those of training, and what the numbers are without them."""

from siglip_med.metrics.headline import headline_metrics
from siglip_med.metrics.predictions import UNFAMILIAR, Predictions

IN_UNFAMILIAR = ("r_at_1", "r_at_5", "mrr", "ece")


def without_unfamiliar(predictions: Predictions) -> tuple[dict[str, float], list[str]]:
    """`IN_UNFAMILIAR` of the familiar images and ``unfamiliar``, their count; and a sentence.

    Nothing where familiarity is not known; the metrics are NaN where no image is familiar.

    Examples:
        >>> from dataclasses import replace
        >>> import numpy as np
        >>> images = Predictions.of([[2.0, 1.0], [2.0, 1.0]], [[1, 0], [0, 1]])
        >>> without_unfamiliar(replace(images, familiarity=np.array([0.5, 0.0])))[1]
        ['1 of 2 images are unfamiliar (p < 0.05); without them R@1 is 1.000, with them 0.500']
        >>> without_unfamiliar(images)
        ({}, [])
    """
    if not len(predictions.familiarity):
        return {}, []
    strange = predictions.unfamiliar
    values = headline_metrics(predictions.take(~strange))
    count, r1 = int(strange.sum()), headline_metrics(predictions)["r_at_1"]
    said = (
        f"{count:,} of {len(predictions):,} images are unfamiliar (p < {UNFAMILIAR:g}); without them R@1 is "
        f"{values['r_at_1']:.3f}, with them {r1:.3f}"
    )
    return {"unfamiliar": count, **{name: values[name] for name in IN_UNFAMILIAR}}, [said]
