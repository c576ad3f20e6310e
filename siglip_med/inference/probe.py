"""Probes of a model's frozen image features, linear and kernel: the baselines that training has to beat."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from siglip_med.data import LabeledData
from siglip_med.data.splitting.look_alikes import SplitLookAlikes, look_across
from siglip_med.data.table import SPLITS
from siglip_med.inference.splits import embed_split
from siglip_med.metrics import Predictions, fit_kernel_ridge, fit_probe
from siglip_med.models import TwoTower


def probe_splits(
    model: TwoTower, data: LabeledData, frames: tuple[Predictions, Predictions], limit: int | None, seed: int
) -> tuple[tuple[Predictions, Predictions], tuple[Predictions, Predictions], SplitLookAlikes | None]:
    """Fits both probes on at most ``limit`` training images and judges validation and test, the images of ``frames``.

    Returns:
        The linear probe's predictions of validation and test, and the kernel probe's, which knows no tree; their
        ``meta["probe"]`` says how each was fitted. Then what looks alike across splits by the same features (by those
        of every training image where they are kept); None with ``data.look_alikes=off``.
    """
    train = np.asarray(data.split.train)
    chosen = train
    if limit is not None and limit < len(train):
        chosen = np.random.default_rng((seed, 4)).choice(train, size=limit, replace=False)
    features, rows = frozen_features(model, data, "train", chosen)
    (of_val, val_rows), (of_test, test_rows) = (frozen_features(model, data, split) for split in ("val", "test"))
    val, test = frames
    primary = data.table.frame["primary"].to_numpy()[rows]
    linear = fit_probe(features, primary, of_val, val.primary, of=len(train))
    kernel = fit_kernel_ridge(features, data.table.labels[rows], of_val, val, trees=(0.0,), of=len(train))
    return (
        (linear.predict(of_val, val), linear.predict(of_test, test)),
        (kernel.predict(of_val, val), kernel.predict(of_test, test)),
        look_alikes(data, {"train": (features, rows), "val": (of_val, val_rows), "test": (of_test, test_rows)}),
    )


def look_alikes(
    data: LabeledData, features: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None
) -> SplitLookAlikes | None:
    """What looks alike across splits by the base's features: kept ones where they are at hand, else the given ones.

    Args:
        data: says whether to look, and from which cosine.
        features: split -> features and rows, as in `look_across`.
    """
    if data.look_alikes == "off" or (features is None and data.kept is None):
        return None
    if data.kept is not None:
        features = {split: (data.kept[data.rows(split)], data.rows(split)) for split in SPLITS}
    assert features is not None
    return look_across(data.table, features, len(data.split.train), data.look_alikes_threshold)


def frozen_features(
    model: TwoTower, data: LabeledData, split: str, chosen: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features ``[n, F]`` in float32 of a split's images, and their rows; the rest is as in `embed_split`."""

    def encode(images: Tensor) -> Tensor:
        return model.pooled_features(images).float()

    return embed_split(model, data, split, encode, f"probes: {split} images", chosen)
