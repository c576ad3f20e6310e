"""A relevance map that is finer than a patch: the mean over views of the image that lie differently on the patches."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from siglip_med.errors import UserError
from siglip_med.inference.maps import relevance_map
from siglip_med.models import TwoTower

SHIFTS = 2
"""Of a patch and direction: four places of the image and their mirror images, eight maps."""


def shifted_relevance_map(model: TwoTower, pixels: Tensor, text: Tensor, shifts: int = SHIFTS) -> np.ndarray:
    """The mean of the relevance maps of an image that is moved by parts of a patch, and of its mirror image.

    One map says which patch, and where the patches lie is an accident of the crop: what straddles two of them is given
    to either. Each map is scaled to a sum of 1 and moved back before the mean, as Smilkov et al. 2017 (SmoothGrad,
    arXiv 1706.03825) average over noise. What comes in at an edge is the image, mirrored at that edge.

    Args:
        model: as in `relevance_map`.
        pixels: ``[3, H, W]``.
        text: ``[E]``.
        shifts: places a direction; 1: the image where it is, and its mirror image.

    Returns:
        ``[h * shifts, w * shifts]`` float32 for h x w patches, none negative; the sum is 1, or 0 where no patch counts.

    Raises:
        UserError: as in `relevance_map`; or a patch cannot be cut into ``shifts`` equal parts.
    """
    first = relevance_map(model, pixels, text)
    patch = pixels.shape[1] // first.shape[0]
    if shifts < 1 or patch % shifts:
        raise UserError(f"relevance: shifts={shifts}: a patch is {patch} pixels wide; take a divisor of that")
    cell, places = patch // shifts, range(-(shifts // 2), shifts - shifts // 2)
    wide = pad(pixels[None], (patch,) * 4, mode="reflect")[0]
    shape = tuple(side * shifts for side in first.shape)
    total, seen = np.zeros(shape), np.zeros(shape)
    for down in places:
        for right in places:
            top, left = patch + down * cell, patch + right * cell
            moved = wide[:, top : top + pixels.shape[1], left : left + pixels.shape[2]]
            here = (slice(max(down, 0), shape[0] + min(down, 0)), slice(max(right, 0), shape[1] + min(right, 0)))
            there = (slice(max(-down, 0), shape[0] - max(down, 0)), slice(max(-right, 0), shape[1] - max(right, 0)))
            for mirrored in (False, True):
                as_it_is = not (down or right or mirrored)
                view = torch.flip(moved, [2]) if mirrored else moved
                found = first if as_it_is else relevance_map(model, view, text)
                found = found[:, ::-1] if mirrored else found
                total[here] += np.kron(_sums_to_one(found), np.ones((shifts, shifts)))[there]
                seen[here] += 1
    return _sums_to_one(total / seen).astype(np.float32)


def _sums_to_one(values: np.ndarray) -> np.ndarray:
    """A map of nothing stays one."""
    total = float(values.sum())
    return values / total if total > 0 else values
