"""What a model expects of an image: the only thing that data and models must agree on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageSpec:
    """Side length in pixels, the per-channel normalization in RGB order, and what 16-bit files hold.

    A normalized pixel is ``(value / 255 - mean) / std``. ``bits`` are in use of files with 16 bits per channel.
    """

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    bits: int = 16
