"""What a split separates although it looks alike: the same lesion in training and in test raises every number."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from siglip_med.core.files import write_text
from siglip_med.core.outside import frame_csv
from siglip_med.data.look_alikes import nearest, proposed_threshold, whitened
from siglip_med.data.table import ImageTable

LOOK_ALIKES = "look_alikes.csv"
"""The file's name in a run folder."""
_BETWEEN = (("test", "train"), ("val", "train"), ("test", "val"))


@dataclass(frozen=True)
class SplitLookAlikes:
    """Images with a look-alike in another split.

    Attributes:
        threshold: cosine from which images look alike; None where none was given and the labels propose none.
        given: whether a setting gave it.
        compared: training images that were looked through, of ``train``.
        nearest: ``[n]`` float32, cosine of each test image to the nearest of them, in the order of the split.
        pairs: ``image_a``, ``split_a``, ``image_b``, ``split_b``, ``cosine``, ``same_label``: each image beside its
            nearest look-alike of another split, the most alike first.
    """

    threshold: float | None
    given: bool
    compared: int
    train: int
    nearest: np.ndarray
    pairs: pd.DataFrame

    @property
    def leaked(self) -> pd.DataFrame:
        """The pairs of a test image and a training image."""
        return self.pairs[(self.pairs["split_a"] == "test") & (self.pairs["split_b"] == "train")]

    def sentence(self) -> str:
        """How many test images have a look-alike in training."""
        of = f"{self.compared:,} of {self.train:,} training images" if self.compared < self.train else "training images"
        if self.threshold is None:
            return (
                "Look-alikes across splits are not counted: at no cosine of the base's features do labels of different "
                f"cases agree enough to propose a threshold (data.look_alikes_threshold). The nearest of {of} is at a "
                f"median cosine of {np.median(self.nearest):.3f}."
            )
        count = len(self.leaked)
        said = f"{count:,} of {len(self.nearest):,} test images ({count / len(self.nearest):.1%}) have a look-alike in "
        said += f"training (cosine {self.threshold:.3f} and more of the base's features, "
        said += f"{'as set' if self.given else 'proposed from the labels'}; {of} looked through)"
        agree = f"; labels agree in {self.leaked['same_label'].mean():.0%} of them" if count else ""
        return f"{said}{agree}."

    def summary(self) -> dict[str, float | int | None]:
        """The numbers, for metrics.json."""
        return {
            "threshold": self.threshold,
            "test_images": len(self.nearest),
            "test_images_with_look_alike_in_training": None if self.threshold is None else len(self.leaked),
            "training_images_compared": self.compared,
            "training_images": self.train,
        }

    def save(self, path: Path) -> None:
        """Writes the pairs as CSV; whole or not at all."""
        write_text(path, frame_csv(self.pairs, float_format="%.4f"))


def look_across(
    table: ImageTable, features: Mapping[str, tuple[np.ndarray, np.ndarray]], train: int, threshold: float | None
) -> SplitLookAlikes:
    """Compares the splits of a table.

    Args:
        table: with the labels and the cases.
        features: train, val and test -> ``[n, F]`` features of a frozen tower, and their ``[n]`` rows of the table.
        train: number of training images, of which there may be features of a sample alone.
        threshold: cosine from which images look alike; None for what the labels of these images propose.

    Raises:
        UserError: an image has features without a direction.
    """
    rows = {split: of for split, (_, of) in features.items()}
    whole = whitened(np.concatenate([values for values, _ in features.values()]))
    ends = np.cumsum([len(of) for of in rows.values()])[:-1]
    units = dict(zip(features, np.split(whole, ends), strict=True))
    given = threshold is not None
    if threshold is None:
        every = np.concatenate([rows[split] for split in units])
        threshold = proposed_threshold(whole, table.cases[every], table.labels[every])
    found = {(a, b): nearest(units[a], units[b]) for a, b in _BETWEEN}
    images, labels = table.frame["image"].to_numpy(dtype=str), table.labels > 0
    parts = []
    for (a, b), (cosines, place) in found.items():
        near = cosines >= (np.inf if threshold is None else threshold)
        left, right = rows[a][near], rows[b][place[near]]
        parts.append(
            pd.DataFrame(
                {
                    "image_a": images[left],
                    "split_a": a,
                    "image_b": images[right],
                    "split_b": b,
                    "cosine": cosines[near],
                    "same_label": (labels[left] & labels[right]).any(axis=1),
                }
            )
        )
    listed = pd.concat(parts, ignore_index=True).sort_values("cosine", ascending=False, kind="stable")
    return SplitLookAlikes(threshold, given, len(rows["train"]), train, found["test", "train"][0], listed)
