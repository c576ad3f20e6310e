"""Where a model looks: how much each part of an image speaks for one condition."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from siglip_med.errors import UserError
from siglip_med.models import TwoTower


@torch.no_grad()
def occlusion_map(
    model: TwoTower, pixels: Tensor, text: Tensor, window: float = 0.25, stride: float = 0.125, batch_size: int = 64
) -> np.ndarray:
    """How much the cosine with a text falls when a square of the image is covered: no look inside the model.

    Args:
        model: in evaluation mode.
        pixels: ``[3, H, W]`` normalized image.
        text: ``[E]`` embedding of the condition's prompts.
        window: side of the square, as a share of the image's.
        stride: step between squares, likewise.
        batch_size: covered images encoded at once.

    Returns:
        ``[H, W]`` float32 mean fall over the squares that cover each pixel; below 0 where covering helps the condition.
        The square has the image's mean color, so that it brings no contrast of its own.
        Source: Zeiler & Fergus, ECCV 2014.
    """
    _, height, width = pixels.shape
    side, step = max(1, round(window * height)), max(1, round(stride * height))
    device = model.logit_scale.device
    corners = [
        (top, left)
        for top in sorted({*range(0, height - side + 1, step), height - side})
        for left in sorted({*range(0, width - side + 1, step), width - side})
    ]
    mean = pixels.mean(dim=(1, 2), keepdim=True)
    direction = normalize(text.float(), dim=-1).to(device)

    def cosine(images: Tensor) -> Tensor:
        return normalize(model.encode_images(images.to(device)).float(), dim=-1) @ direction

    whole = cosine(pixels[None])[0]
    falls = np.zeros((height, width), dtype=np.float32)
    covers = np.zeros((height, width), dtype=np.float32)
    for start in range(0, len(corners), batch_size):
        chunk = corners[start : start + batch_size]
        covered = pixels.repeat(len(chunk), 1, 1, 1)
        for image, (top, left) in zip(covered, chunk, strict=True):
            image[:, top : top + side, left : left + side] = mean
        for fall, (top, left) in zip((whole - cosine(covered)).tolist(), chunk, strict=True):
            falls[top : top + side, left : left + side] += fall
            covers[top : top + side, left : left + side] += 1
    return falls / covers


def attention_map(model: TwoTower, pixels: Tensor, text: Tensor) -> np.ndarray:
    """Gradient-weighted attention of the vision tower for one condition, in one forward and one backward pass.

    Relevance of token pairs is gathered over the layers, R <- R + mean over heads of max(0, gradient x attention) · R
    (Chefer et al., ICCV 2021, eq. 5 and 6), and read out by gradient x activation of the last layer's tokens, since
    SigLIP pools by a probe and has no class token; where there is one, its row of R is the read-out.

    Args:
        model: in evaluation mode; a vision tower of transformer layers with square patches.
        pixels: ``[3, H, W]`` normalized image.
        text: ``[E]`` embedding of the condition's prompts.

    Returns:
        ``[H, W]`` float32, at least 0, bilinear between the patches.

    Raises:
        UserError: the vision tower shows no attention (a convolutional backbone).
    """
    device = model.logit_scale.device
    tower: Any = model.vision_tower()
    with _open_attention(tower), torch.enable_grad():
        kept: list[Any] = []
        hook = tower.register_forward_hook(
            lambda module, given, output: kept.append(output), always_call=False
        )
        try:
            image = pixels[None].to(device).requires_grad_()
            embedding = normalize(model.encode_images(image).float(), dim=-1)[0]
        finally:
            hook.remove()
        attentions, states = getattr(kept[-1], "attentions", None), kept[-1].hidden_states
        if not attentions or attentions[0] is None:
            raise UserError(f"maps: {type(tower).__name__} shows no attention; take the occlusion map")
        cosine = embedding @ normalize(text.float(), dim=-1).to(device)
        gradients = torch.autograd.grad(cosine, [*attentions, states[-1]], allow_unused=True)
    tokens = states[-1].shape[1]
    relevance = torch.eye(tokens, device=device)
    for attention, gradient in zip(attentions, gradients[:-1], strict=True):
        if gradient is not None:
            relevance = relevance + (gradient * attention).clamp(min=0).mean(dim=1)[0] @ relevance
    grid = int(tokens**0.5)
    extra = tokens - grid * grid  # a class token and registers stand first
    if extra:
        scores = relevance[0, extra:]
    else:
        last: Tensor = gradients[-1]
        scores = (last * states[-1]).sum(dim=-1)[0].clamp(min=0) @ relevance
    square = scores.detach().reshape(1, 1, grid, grid)
    size = (pixels.shape[1], pixels.shape[2])
    return interpolate(square, size=size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()


@contextmanager
def _open_attention(tower: Any) -> Iterator[None]:
    """Fused attention gives no weights: the tower computes them one by one meanwhile."""
    config = tower.config
    before = config._attn_implementation, config.output_attentions, config.output_hidden_states
    tower.set_attn_implementation("eager")
    config.output_attentions, config.output_hidden_states = True, True
    try:
        yield
    finally:
        tower.set_attn_implementation(before[0])
        config.output_attentions, config.output_hidden_states = before[1], before[2]
