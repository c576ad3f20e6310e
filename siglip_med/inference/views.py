"""Deterministic views of photographs, over which a prediction can be averaged (test-time augmentation)."""

from collections.abc import Iterator

from torch import Tensor
from torch.nn.functional import interpolate

MOST = 12
_SHARE = 7 / 8
"""Of the sides, that a crop shows."""


def views(pixels: Tensor, count: int) -> Iterator[Tensor]:
    """The first ``count`` views of ``[B, 3, S, S]`` pixels, of the same shape; the first is the pixels themselves.

    The whole, then center and corners of seven eighths of the sides, scaled back bilinearly; each is followed by its
    mirror image (after the ten crops of Krizhevsky et al. 2012).

    Raises:
        ValueError: there are not so many.
    """
    if not 1 <= count <= MOST:
        raise ValueError(f"1 to {MOST} views, not {count}")
    side = pixels.shape[-1]
    inner = round(_SHARE * side)
    end = side - inner
    for number in range(count):
        place = number // 2
        if place == 0:
            seen = pixels
        else:
            top, left = ((end // 2, end // 2), (0, 0), (0, end), (end, 0), (end, end))[place - 1]
            crop = pixels[..., top : top + inner, left : left + inner]
            seen = interpolate(crop, size=(side, side), mode="bilinear", align_corners=False)
        yield seen.flip(-1) if number % 2 else seen
