"""What a data loader gives."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """One batch of images with their labels.

    Attributes:
        images: ``[B, 3, H, W]`` float32, normalized; or ``[B, F]`` float32 features of a frozen vision tower.
        labels: ``[B, C]`` float32 in [0, 1]: multi-hot, or dermatologist weights.
        index: ``[B]`` int64, the row of each image in the table (captions, cases and metadata are looked up by it).
    """

    images: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # every tuple has a method of this name
