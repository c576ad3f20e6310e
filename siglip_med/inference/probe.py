"""Probes of a model's frozen image features, linear and kernel: the baselines that training has to beat."""

from collections.abc import Mapping

import numpy as np

from siglip_med.data import LabeledData
from siglip_med.data.splitting.look_alikes import SplitLookAlikes, look_across
from siglip_med.data.table import SPLITS
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
) -> tuple[tuple[Predictions, Predictions], tuple[Predictions, Predictions], SplitLookAlikes | None]:
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
        ``meta["probe"]`` says how each was fitted. Then what looks alike across splits by the same features (by those
        of every training image where they are kept); None with ``data.look_alikes=off``.
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
        look_alikes(
            data,
            {"train": (features, rows), "val": (of_val, data.rows("val")), "test": (of_test, data.rows("test"))},
        ),
    )


def look_alikes(
    data: LabeledData, features: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None
) -> SplitLookAlikes | None:
    """What looks alike across splits by the base's features: kept ones where they are at hand, else the given ones.

    ``data`` says whether to look, and from which cosine; ``features`` are split -> features and rows, as in
    `look_across`.
    """
    if data.look_alikes == "off":
        return None
    if data.kept is not None:
        features = {split: (data.kept[data.rows(split)], data.rows(split)) for split in SPLITS}
    if features is None:
        return None
    return look_across(data.table, features, len(data.split.train), data.look_alikes_threshold)


def some_training_rows(data: LabeledData, limit: int | None, seed: int) -> np.ndarray:
    """Rows of the training images of which a condition is known, or of ``limit`` of them by chance."""
    train = np.asarray(data.split.train)
    train = train[~data.table.only_broad[train]]
    if limit is None or limit >= len(train):
        return train
    return np.random.default_rng((seed, 4)).choice(train, size=limit, replace=False)


def frozen_features(
    model: TwoTower, data: LabeledData, split: str, chosen: np.ndarray | None = None, what: str = "probes"
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features ``[n, F]`` in float32 of a split's images, and their rows; the rest is as in `embed_split`."""
    return embed_split(
        model, data, split, lambda images: model.pooled_features(images).float(), f"{what}: {split} images", chosen
    )
