"""Where in an image a model looks for a text: one map read from its attentions, one from hiding parts of the image."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from siglip_med.core.errors import UserError
from siglip_med.models import TwoTower
from siglip_med.models.frozen_blocks import encoder_layers, replaced_forwards

_INSTEAD = "an occlusion map works for every model"
_BATCH = 64
"""Images with a hidden square that are encoded at once."""
Target = Tensor | Callable[[Tensor], Tensor]
"""What a map is drawn for: ``[E]`` embedding of a text, or a function of pooled features ``[B, F]`` to ``[B]`` scores,
as the refit's of a condition."""


def relevance_map(model: TwoTower, pixels: Tensor, text: Target) -> np.ndarray:
    """Which patches the attentions of the vision tower carry into the score of an image against a text.

    Gradient-weighted attention, propagated through the blocks (Chefer, Gur and Wolf 2021, "Generic Attention-model
    Explainability", arXiv 2103.15679, equations 5, 6, 8 and 9): with A the attention of a block and G the gradient of
    the score by it, ``R <- R + mean over heads of max(G * A, 0) @ R`` from ``R = 1`` on. How R is read follows the
    pooling: through the same rule for the probe of an attention pooling head (SigLIP), the row of the class token
    (CLIP, DINOv2, ViT), the mean of all rows, or of those of the patches (BEiT's pooler, DermLIP's PanDerm).

    It says which patches the model uses *for* this text, and no more: not that they are ill, not that the answer is
    right, not how large a lesion is; and it is no segmentation. What speaks against the text is not shown, and neither
    is what the tower carries past its attentions. A patch may matter for the light or the background as well as for a
    lesion; set `occlusion_map` beside it, which asks the model itself.

    Args:
        model: runs on the device it is on; left as it was found.
        pixels: ``[3, H, W]`` as the model gets them (`image_spec`, normalized).
        text: ``[E]`` embedding of a condition's prompts (a row of `PromptEnsemble.encode`) or of any text, or a
            `Target`.

    Returns:
        ``[h, w]`` float32, a number per patch, none negative; the sum depends on the model, so compare within a map.

    Raises:
        UserError: the vision tower has no attentions over patches (a convolutional or windowed one), or the shapes of
            pixels or text are not those above.
    """
    _check(model, pixels, text)
    return relevance_maps(model, pixels[None], text)[0]


def relevance_maps(model: TwoTower, pixels: Tensor, text: Target) -> np.ndarray:
    """`relevance_map` of each of ``[V, 3, H, W]`` images, in one pass: ``[V, h, w]``."""
    tower, device = model.vision_tower(), model.logit_scale.device
    layers = encoder_layers(tower)
    if layers is None:
        raise _no_attentions(tower)
    with _evaluating(model), torch.enable_grad(), _eager(tower), _recorded(tower, layers) as (blocks, pools):
        images = pixels.detach().to(device).requires_grad_()
        # no image sees another, so the gradient of the sum is that of each
        score = _scores(model, images, text).sum()
    if (
        len(blocks) != len(layers)
        or len({(*a.shape[:1], *a.shape[2:]) for a in blocks}) != 1
        or len(blocks[0]) != len(pixels)
    ):
        raise _no_attentions(tower)
    gradients = torch.autograd.grad(score, [*blocks, *pools], allow_unused=True)
    patches = _grid(tower, pixels[0])
    tokens = blocks[0].shape[-1]
    if tokens < patches[0] * patches[1]:
        raise _no_attentions(tower)
    relevance = torch.eye(tokens, device=device).expand(len(pixels), -1, -1)
    for attention, gradient in zip(blocks, gradients, strict=False):
        if gradient is not None:  # None: a block that the pooled output does not depend on
            relevance = relevance + _weighted(attention, gradient) @ relevance
    pooled = [
        (one, gradient) for one, gradient in zip(pools, gradients[len(blocks) :], strict=True) if gradient is not None
    ]
    if pooled:
        row = _weighted(*pooled[0]) @ _normalized(relevance)
    elif (pooling := getattr(model, "vision_pooling", "cls")) == "mean":
        row = relevance.mean(dim=1, keepdim=True)
    elif pooling == "patches" or (pooling == "pooler" and getattr(tower.config, "use_mean_pooling", False)):  # BEiT's
        row = relevance[:, 1:].mean(dim=1, keepdim=True)
    else:
        row = relevance[:, :1]
    # class and register tokens come before the patches
    found = row[:, 0, tokens - patches[0] * patches[1] :].reshape(len(pixels), *patches)
    return found.detach().float().cpu().numpy()


def occlusion_map(model: TwoTower, pixels: Tensor, text: Target) -> np.ndarray:
    """How far the score of an image against a text falls where a square of the image is hidden.

    Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks" (arXiv 1311.2901), section 4.2. A
    square of the image's mean color moves over it, by a sixteenth of the image's side and twice as wide; each cell gets
    the mean fall of the logit over the squares that hide it. It needs nothing of the model but its answers, so it is
    the check of any other map.

    It says what the answer hangs on, at the size of the square, and no more. Where two places each suffice for the
    answer, hiding one of them shows nothing; and a patched image is unlike any that the model has seen.

    Args:
        model: runs on the device it is on; left as it was found.
        pixels: ``[3, H, W]`` as the model gets them (`image_spec`, normalized).
        text: as in `relevance_map`.

    Returns:
        ``[h, w]`` float32 in logits, h and w being H and W over the step, rounded up; negative where hiding raises the
        score.

    Raises:
        UserError: the shapes of pixels or text are not those above.
    """
    _check(model, pixels, text)
    height, width = pixels.shape[1:]
    stride = max(1, min(height, width) // 16)
    window = 2 * stride
    device = model.logit_scale.device
    image = pixels.detach().to(device)
    mean = image.mean(dim=(1, 2), keepdim=True)
    rows, columns = -(-height // stride), -(-width // stride)
    # squares overhang the edge, so that a cell at the edge is hidden as often as any other
    places = [(row, column) for row in range(-1, rows) for column in range(-1, columns)]
    fallen, hidden = np.zeros((rows, columns)), np.zeros((rows, columns))
    with _evaluating(model), torch.no_grad():
        whole = _scores(model, image[None], text)[0]
        for start in range(0, len(places), _BATCH):
            chosen = places[start : start + _BATCH]
            batch = image.repeat(len(chosen), 1, 1, 1)
            for one, (row, column) in zip(batch, chosen, strict=True):
                top, left = row * stride, column * stride
                one[:, max(top, 0) : top + window, max(left, 0) : left + window] = mean
            falls = (whole - _scores(model, batch, text)).double().cpu().numpy()
            for fall, (row, column) in zip(falls, chosen, strict=True):
                cells = (slice(max(row, 0), row + 2), slice(max(column, 0), column + 2))
                fallen[cells] += fall
                hidden[cells] += 1
    return (fallen / hidden).astype(np.float32)


def against_the_mean(texts: Tensor) -> Tensor:
    """``[C, E]`` embeddings of the conditions, less their mean: a text as it is shares most with every other."""
    return texts - texts.mean(dim=0)


def _scores(model: TwoTower, images: Tensor, text: Target) -> Tensor:
    """``[B]`` of ``[B, 3, H, W]`` images."""
    if isinstance(text, Tensor):
        return model.logits(model.encode_images(images), text.detach().to(images.device)[None])[:, 0]
    return text(model.pooled_features(images))


def _weighted(attention: Tensor, gradient: Tensor) -> Tensor:
    """``[V, heads, Q, K]`` attention and its gradient to ``[V, Q, K]``: what of it speaks for the score."""
    return (attention.detach() * gradient).clamp(min=0).mean(dim=1).float()


def _normalized(relevance: Tensor) -> Tensor:
    """The rows of what was added to the identity sum to 1 (equations 8 and 9), where anything was added."""
    own = torch.eye(relevance.shape[-1], device=relevance.device)
    added = relevance - own
    total = added.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, added / total.clamp(min=torch.finfo(total.dtype).tiny), added) + own


def _check(model: TwoTower, pixels: Tensor, text: Target) -> None:
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise UserError(f"a map needs the pixels of one image, [3, H, W]; got {list(pixels.shape)}")
    if isinstance(text, Tensor) and text.shape != (model.embedding_dim,):
        raise UserError(f"a map needs the embedding of one text, [{model.embedding_dim}]; got {list(text.shape)}")


def patch_grid(model: TwoTower, pixels: Tensor, text: Target) -> tuple[int, int]:
    """Rows and columns of a relevance map; arguments and errors as of `relevance_map`."""
    _check(model, pixels, text)
    return _grid(model.vision_tower(), pixels)


def _grid(tower: Any, pixels: Tensor) -> tuple[int, int]:
    """Rows and columns of patches that the tower cuts an image into."""
    patch = getattr(tower.config, "patch_size", None)
    if not isinstance(patch, int):
        raise _no_attentions(tower)
    return pixels.shape[1] // patch, pixels.shape[2] // patch


def _no_attentions(tower: Any) -> UserError:
    return UserError(
        f"relevance: {type(tower).__name__} gives no attentions between the patches of an image; {_INSTEAD}"
    )


@contextmanager
def _evaluating(model: TwoTower) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _eager(tower: Any) -> Iterator[None]:
    """While it is open, the tower computes its attentions one by one: faster kernels never have them in memory."""
    before = tower.config._attn_implementation
    if not tower._can_set_attn_implementation():
        raise _no_attentions(tower)
    tower.set_attn_implementation("eager")
    try:
        yield
    finally:
        tower.set_attn_implementation(before)


@contextmanager
def _recorded(tower: nn.Module, layers: nn.ModuleList) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """While it is open, lists fill with the attentions of blocks and of pooling heads, ``[B, heads, Q, K]``."""
    blocks: dict[int, Tensor] = {}
    pools: list[Tensor] = []

    def keep(number: int, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], Tensor) and output[1].ndim == 4:
            blocks.setdefault(number, output[1])

    inside = {module for layer in layers for module in layer.modules()}
    handles = [
        module.register_forward_hook(partial(keep, number))
        for number, layer in enumerate(layers)
        for module in layer.modules()
    ]
    heads: dict[nn.Module, Callable[..., Any]] = {
        module: partial(_attend, module, pools)
        for module in tower.modules()
        if isinstance(module, nn.MultiheadAttention) and module not in inside
    }
    found: list[Tensor] = []
    try:
        with replaced_forwards(heads):
            yield found, pools
    finally:
        for handle in handles:
            handle.remove()
        found += [blocks[number] for number in sorted(blocks)]


def _attend(
    module: nn.MultiheadAttention, kept: list[Tensor], query: Tensor, key: Tensor, value: Tensor, **settings: Any
) -> tuple[Tensor, None]:
    """What `torch.nn.MultiheadAttention` computes for batches without a mask, with weights that have a gradient.

    The weights that PyTorch returns are a copy that its own output does not depend on.
    """
    if any(settings.get(name) is not None for name in ("attn_mask", "key_padding_mask")):
        raise UserError(f"relevance: the pooling head takes a mask; {_INSTEAD}")
    projected = zip((query, key, value), module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True)
    q, k, v = (
        nn.functional.linear(states, weight, bias).unflatten(2, (module.num_heads, -1)).transpose(1, 2)
        for states, weight, bias in projected
    )
    weights = (q @ k.transpose(2, 3) / module.head_dim**0.5).softmax(dim=-1)
    kept.append(weights)
    return module.out_proj((weights @ v).transpose(1, 2).flatten(2)), None
