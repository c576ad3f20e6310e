"""Where in a photograph a score comes from: a quick first-order map, and the slow check of it."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from siglip_med.models import TwoTower

GRID = 8
"""Cells on a side."""
COPIES, NOISE = 16, 0.1
"""Noisy copies whose gradients are averaged, and the standard deviation of their noise in normalized pixels."""


def relevance_map(model: TwoTower, pixels: Tensor, text: Tensor) -> np.ndarray:
    """Gradient times input, against a photograph of its mean color; the gradient is that of noisy copies.

    Source: Shrikumar et al. 2016, arXiv 1605.01713 (gradient times input); Smilkov et al. 2017, arXiv 1706.03825
    (the mean over noisy copies).

    Args:
        model: in evaluation mode.
        pixels: ``[3, H, W]`` normalized, on the model's device.
        text: ``[E]`` embedding.

    Returns:
        ``[GRID, GRID]`` float32, mean over a cell; positive where it raises the score.
    """
    generator = torch.Generator().manual_seed(0)
    noise = NOISE * torch.randn(COPIES, *pixels.shape, generator=generator)
    copies = (pixels + noise.to(pixels.device)).requires_grad_(True)
    with torch.enable_grad():
        score = model.logits(model.encode_images(copies), text[None]).sum()
        (gradient,) = torch.autograd.grad(score, copies)
    difference = pixels - pixels.mean(dim=(1, 2), keepdim=True)
    relevance = (gradient.mean(dim=0) * difference).sum(dim=0)
    return adaptive_avg_pool2d(relevance[None], GRID)[0].float().cpu().numpy()


@torch.no_grad()
def occlusion_map(model: TwoTower, pixels: Tensor, text: Tensor, batch_size: int = 16) -> np.ndarray:
    """How far the score falls when a cell is covered with the photograph's mean color.

    Source: Zeiler & Fergus, ECCV 2014, arXiv 1311.2901.

    Args:
        model: in evaluation mode.
        pixels: ``[3, H, W]`` normalized, on the model's device.
        text: ``[E]`` embedding.
        batch_size: covered photographs encoded at once.

    Returns:
        ``[GRID, GRID]`` float32: logit of the whole photograph − logit of the covered one.
    """
    _, height, width = pixels.shape
    mean = pixels.mean(dim=(1, 2))
    rows, columns = (np.linspace(0, side, GRID + 1).round().astype(int) for side in (height, width))
    covered = pixels.repeat(GRID * GRID, 1, 1, 1)
    for cell in range(GRID * GRID):
        row, column = divmod(cell, GRID)
        place = covered[cell, :, rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
        place.copy_(mean[:, None, None].expand_as(place))
    logits = [
        model.logits(model.encode_images(images), text[None])[:, 0]
        for images in (pixels[None], *covered.split(batch_size))
    ]
    whole, *rest = torch.cat(logits).float().cpu()
    return (whole - torch.stack(rest)).reshape(GRID, GRID).numpy()
