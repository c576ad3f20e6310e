"""Probes of a model's frozen image features, linear and kernel: the baselines that training has to beat."""

import numpy as np
from torch import Tensor

from siglip_med.data import LabeledData
from siglip_med.inference.splits import embed_split
from siglip_med.metrics import Predictions, fit_kernel_ridge, fit_probe
from siglip_med.models import TwoTower


def probe_splits(
    model: TwoTower,
    data: LabeledData,
    frames: tuple[Predictions, Predictions],
    features_of: tuple[np.ndarray, np.ndarray],
    limit: int | None,
    seed: int,
) -> tuple[tuple[Predictions, Predictions], tuple[Predictions, Predictions]]:
    """Fits both probes on at most ``limit`` training images and judges validation and test, the images of ``frames``.

    Args:
        model: the base.
        data: its images.
        frames: validation and test.
        features_of: ``[N, F]`` pooled features of their images.
        limit: most training images; None: all.
        seed: draws them.

    Returns:
        The linear probe's predictions of validation and test, and the kernel probe's, which knows no tree; their
        ``meta["probe"]`` says how each was fitted.
    """
    train = np.asarray(data.split.train)
    features, rows = frozen_features(model, data, "train", some_training_rows(data, limit, seed))
    (val, test), (of_val, of_test) = frames, features_of
    primary = data.table.frame["primary"].to_numpy()[rows]
    linear = fit_probe(features, primary, of_val, val.primary, of=len(train))
    kernel = fit_kernel_ridge(features, data.table.labels[rows], of_val, val, trees=(0.0,), of=len(train))
    return (
        (linear.predict(of_val, val), linear.predict(of_test, test)),
        (kernel.predict(of_val, val), kernel.predict(of_test, test)),
    )


def some_training_rows(data: LabeledData, limit: int | None, seed: int) -> np.ndarray:
    """Rows of the training images, or of ``limit`` of them by chance."""
    train = np.asarray(data.split.train)
    if limit is None or limit >= len(train):
        return train
    return np.random.default_rng((seed, 4)).choice(train, size=limit, replace=False)


def frozen_features(
    model: TwoTower, data: LabeledData, split: str, chosen: np.ndarray | None = None, what: str = "probes"
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features ``[n, F]`` in float32 of a split's images, and their rows; the rest is as in `embed_split`."""

    def encode(images: Tensor) -> Tensor:
        return model.pooled_features(images).float()

    return embed_split(model, data, split, encode, f"{what}: {split} images", chosen)
