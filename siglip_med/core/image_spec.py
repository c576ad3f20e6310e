"""What a model expects of an image: the only thing that data and models must agree on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageSpec:
    """Side length in pixels and the per-channel normalization, both in RGB order.

    A normalized pixel is ``(value / 255 - mean) / std``.
    """

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
