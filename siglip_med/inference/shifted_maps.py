"""A relevance map that is finer than a patch: the mean over views of the image that lie differently on the patches."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from siglip_med.core.errors import UserError
from siglip_med.inference.maps import Target, patch_grid, relevance_maps
from siglip_med.models import TwoTower

_COARSE = 8
"""Up to so many patches per side, a patch is cut into four parts per direction; else into two."""


def shifted_relevance_map(model: TwoTower, pixels: Tensor, text: Target, shifts: int | None = None) -> np.ndarray:
    """The mean of the relevance maps of an image that is moved by parts of a patch, and of its mirror image.

    One map says which patch, and where the patches lie is an accident of the crop: what straddles two of them is given
    to either. Each map is scaled to a sum of 1 and moved back before the mean, as Smilkov et al. 2017 (SmoothGrad,
    arXiv 1706.03825) average over noise. What comes in at an edge is the image, mirrored at that edge.

    Args:
        model: as in `relevance_map`.
        pixels: ``[3, H, W]``.
        text: as in `relevance_map`.
        shifts: places per direction; 1: the image where it is, and its mirror image. None: 4 where there are at most 8
            patches per side (32 maps), else 2 (8 maps), or the most below that which cut a patch into whole pixels.

    Returns:
        ``[h * shifts, w * shifts]`` float32 for h x w patches, none negative; the sum is 1, or 0 where no patch counts.

    Raises:
        UserError: as in `relevance_map`; or a patch cannot be cut into ``shifts`` equal parts.
    """
    grid = patch_grid(model, pixels, text)
    patch = pixels.shape[1] // grid[0]
    if shifts is None:
        shifts = next(n for n in (4, 2, 1) if patch % n == 0 and (n < 4 or max(grid) <= _COARSE))
    if shifts < 1 or patch % shifts:
        raise UserError(f"relevance: shifts={shifts}: a patch is {patch} pixels wide; take a divisor of that")
    cell, places = patch // shifts, range(-(shifts // 2), shifts - shifts // 2)
    wide = pad(pixels[None], (patch,) * 4, mode="reflect")[0]
    shape = tuple(side * shifts for side in grid)
    total, seen = np.zeros(shape), np.zeros(shape)
    for down in places:
        top = patch + down * cell
        moved = [
            wide[:, top : top + pixels.shape[1], patch + right * cell :][:, :, : pixels.shape[2]] for right in places
        ]
        found = relevance_maps(model, torch.stack([*moved, *(torch.flip(view, [2]) for view in moved)]), text)
        for right, plain, mirrored in zip(places, found[:shifts], found[shifts:], strict=True):
            here = (slice(max(down, 0), shape[0] + min(down, 0)), slice(max(right, 0), shape[1] + min(right, 0)))
            there = (slice(max(-down, 0), shape[0] - max(down, 0)), slice(max(-right, 0), shape[1] - max(right, 0)))
            both = _sums_to_one(plain) + _sums_to_one(mirrored[:, ::-1])
            total[here] += np.kron(both, np.ones((shifts, shifts)))[there]
            seen[here] += 2
    return _sums_to_one(total / seen).astype(np.float32)


def _sums_to_one(values: np.ndarray) -> np.ndarray:
    """A map of nothing stays one."""
    total = float(values.sum())
    return values / total if total > 0 else values
