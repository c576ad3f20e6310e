"""Predictions of several models for the same images as those of one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from siglip_med.core.case_pooling import Average, average_logits
from siglip_med.core.errors import UserError
from siglip_med.metrics.bootstrap import aligned
from siglip_med.metrics.calibration import Calibration
from siglip_med.metrics.predictions import Predictions


def join_predictions(
    members: Mapping[str, Predictions], calibrations: Sequence[Calibration], average: Average = "mean_logit"
) -> Predictions:
    """The mean of calibrated logits, as predictions of one model; calibrate it again on validation.

    Embeddings stand side by side, so that a cosine is the mean of the members' cosines; familiarity is the mean of
    their p-values; nearness to training stays where all members have the same.

    Args:
        members: name -> predictions of one split; the order of the images is the first one's.
        calibrations: one each, fitted on the member's validation.
        average: as in `average_logits`.

    Raises:
        UserError: conditions, codes, images, labels, D or training counts of a member are not those of the first one.
    """
    (name, first), *others = members.items()
    parts = [first, *(_like(first, name, other, part) for other, part in others)]
    logits = [by.apply(part).logits for by, part in zip(calibrations, parts, strict=True)]
    known = all(len(part.familiarity) for part in parts)
    near = all(np.array_equal(part.nearest, first.nearest) for part in parts)
    texts, images = (
        np.concatenate([getattr(part, side) for part in parts], axis=1) / np.sqrt(np.float32(len(parts)))
        if all(len(getattr(part, side)) for part in parts)
        else getattr(first, side)[:0]
        for side in ("text_embeddings", "image_embeddings")
    )
    return replace(
        first,
        logits=average_logits(logits, average).astype(np.float32),
        text_embeddings=texts,
        image_embeddings=images,
        nearest=first.nearest if near else first.nearest[:0],
        familiarity=np.mean([part.familiarity for part in parts], axis=0) if known else first.familiarity[:0],
        meta={key: value for key, value in first.meta.items() if near or key != "look_alikes"}
        | {"scores": f"{average} of {len(parts)} models: {', '.join(members)}"},
    )


def _like(first: Predictions, name: str, other: str, part: Predictions) -> Predictions:
    """A member in the order of the first one's images; a UserError where it is of something else."""
    try:
        part = aligned(first, part)
    except UserError as error:
        raise UserError(f"ensemble: {other} and {name}: {error}") from None
    for what, theirs, ours in (
        ("codes", part.codes, first.codes),
        ("label weights", part.labels, first.labels),
        ("first conditions", part.primary, first.primary),
        ("cases", part.cases, first.cases),
        ("dissimilarities D", part.dissimilarity, first.dissimilarity),
        ("training images per condition", part.train_counts, first.train_counts),
    ):
        differs = np.asarray(theirs) != np.asarray(ours)
        if differs.any():
            raise UserError(
                f"ensemble: {other} and {name}: their {what} differ ({int(differs.sum()):,} of {differs.size:,}); give "
                "runs of one data set, one table of codes, one geometry and one split"
            )
    return part
