"""The refit at work: fitted after training on the tuned tower's features, it answers in place of the prompts."""

from dataclasses import replace

import numpy as np
import torch

from siglip_med.data import LabeledData
from siglip_med.inference.probe import frozen_features, some_training_rows
from siglip_med.inference.splits import Embedded
from siglip_med.metrics import Predictions, fit_kernel_ridge
from siglip_med.models import Refit, TwoTower

_ROWS = 4_096


def fit_refit(
    model: TwoTower, data: LabeledData, val: Predictions, val_features: np.ndarray, limit: int, seed: int
) -> tuple[Refit, Embedded]:
    """Fits `fit_kernel_ridge` on the training images without augmentation, as the trained model sees them now.

    Features of a frozen tower are read and not computed again. Validation, with its ``[V, F]`` pooled features, chooses
    width, ridge, tree and temperature. Of more than ``limit`` training images so many are drawn by the seed.

    Returns:
        The refit; the features ``[n, F]`` that it was fitted on, and their rows in the table.
    """
    features, rows = frozen_features(model, data, "train", some_training_rows(data, limit, seed), "refit")
    fitted = fit_kernel_ridge(features, data.table.labels[rows], val_features, val, of=len(data.split.train))
    return Refit(fitted.calibrated(val_features, val).arrays(), fitted.about()), (features, rows)


@torch.no_grad()
def refit_answers(refit: Refit, features: np.ndarray, frame: Predictions) -> Predictions:
    """The same images with the refit's logits; ``features`` are their ``[N, F]`` pooled features."""
    blocks = torch.from_numpy(features).split(_ROWS)
    logits = torch.cat([refit(block) for block in blocks]).numpy()
    return replace(frame, logits=logits, meta={**frame.meta, "scores": f"refit: {refit.about}"})
