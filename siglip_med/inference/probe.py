"""Probes of a model's frozen image features, linear and kernel: the baselines that training has to beat."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from siglip_med.data import LabeledData
from siglip_med.data.splitting.look_alikes import SplitLookAlikes, look_across
from siglip_med.data.table import SPLITS
from siglip_med.inference.splits import embed_split
from siglip_med.metrics import Predictions, fit_kernel_ridge, fit_probe
from siglip_med.models import TwoTower


@dataclass(frozen=True)
class ProbeFeatures:
    """Pooled features of a run's images by its base, taken before it is trained; the probes may be fitted later.

    Attributes:
        train: ``[n, F]`` of training images, and their rows in the table.
        val: ``[N, F]``; ``test`` likewise.
        of: training images that there are.
    """

    train: tuple[np.ndarray, np.ndarray]
    val: np.ndarray
    test: np.ndarray
    of: int

    @classmethod
    def embed(
        cls,
        model: TwoTower,
        data: LabeledData,
        features_of: tuple[np.ndarray, np.ndarray],
        limit: int | None,
        seed: int,
    ) -> "ProbeFeatures":
        """Embeds at most ``limit`` training images (None: all), drawn by ``seed``, beside validation and test."""
        train = frozen_features(model, data, "train", some_training_rows(data, limit, seed))
        return cls(train, *features_of, of=len(data.split.train))

    def probes(
        self, data: LabeledData, val: Predictions, test: Predictions
    ) -> tuple[tuple[Predictions, Predictions], tuple[Predictions, Predictions]]:
        """The linear probe's predictions of validation and test, and the kernel probe's, which knows no tree.

        Their ``meta["probe"]`` says how each was fitted.
        """
        features, rows = self.train
        primary = data.table.frame["primary"].to_numpy()[rows]
        linear = fit_probe(features, primary, self.val, val.primary, of=self.of)
        kernel = fit_kernel_ridge(features, data.table.labels[rows], self.val, val, trees=(0.0,), of=self.of)
        return (
            (linear.predict(self.val, val), linear.predict(self.test, test)),
            (kernel.predict(self.val, val), kernel.predict(self.test, test)),
        )

    def look_alikes(self, data: LabeledData) -> SplitLookAlikes | None:
        """What looks alike across splits by these features, or by those of every training image where they are kept."""
        val, test = (self.val, data.rows("val")), (self.test, data.rows("test"))
        return look_alikes(data, {"train": self.train, "val": val, "test": test})


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
