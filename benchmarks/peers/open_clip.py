"""open_clip's own step: its model, its sigmoid loss, and the optimizer that its training script builds.

The package needs torchvision for its transforms and for parts of models that are not built here, so its model and loss
files are imported without the rest of it where torchvision is missing.
"""

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

_ALIAS = "open_clip_without_transforms"


def missing() -> str:
    """Why it cannot be measured; empty where it can."""
    return "" if importlib.util.find_spec("open_clip") else "open_clip is not installed"


def part(name: str) -> ModuleType:
    """A file of the package, e.g. ``model`` or ``loss``."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None
    assert package.origin is not None
    if _ALIAS not in sys.modules:
        alias = ModuleType(_ALIAS)
        alias.__path__ = [str(Path(package.origin).parent)]
        sys.modules[_ALIAS] = alias
    stubs = {}
    if importlib.util.find_spec("torchvision") is None:
        stubs = {stub: ModuleType(stub) for stub in ("torchvision", "torchvision.ops", "torchvision.ops.misc")}
        stubs["torchvision.ops.misc"].FrozenBatchNorm2d = nn.Identity  # type: ignore[attr-defined]
    sys.modules |= stubs
    try:
        return importlib.import_module(f"{_ALIAS}.{name}")
    finally:
        for stub in stubs:
            del sys.modules[stub]


@dataclass(frozen=True)
class Shape:
    """The widths of SigLIP-base; layers of each tower.

    Attributes:
        layers: blocks per tower.
        width: of both towers and of the shared space.
        heads: of both towers.
        image_size: side in pixels.
        patch_size: side in pixels.
        vocabulary: tokens.
    """

    layers: int = 2
    width: int = 768
    heads: int = 12
    image_size: int = 224
    patch_size: int = 16
    vocabulary: int = 32000


def build(shape: Shape) -> nn.Module:
    """ViT-B-16-SigLIP as its config says, with open_clip's own vision tower and pooling in place of timm's."""
    model = part("model")
    vision = model.CLIPVisionCfg(
        image_size=shape.image_size,
        layers=shape.layers,
        width=shape.width,
        head_width=shape.width // shape.heads,
        patch_size=shape.patch_size,
        no_ln_pre=True,
        attentional_pool=True,
        attn_pooler_queries=1,
        attn_pooler_heads=shape.heads,
        norm_kwargs={"eps": 1e-6},
    )
    text = model.CLIPTextCfg(
        context_length=64,
        vocab_size=shape.vocabulary,
        width=shape.width,
        heads=shape.heads,
        layers=shape.layers,
        no_causal_mask=True,
        proj_bias=True,
        pool_type="last",
        norm_kwargs={"eps": 1e-6},
    )
    scale = math.log(10.0)
    return model.CustomTextCLIP(
        shape.width, vision, text, init_logit_scale=scale, init_logit_bias=-10.0, output_dict=True
    ).train()


def optimizer_of(model: nn.Module, learning_rate: float = 1e-5) -> torch.optim.Optimizer:
    """As the training script's: no decay for gains, biases and the logit scale."""
    plain, decayed = [], []
    for name, parameter in model.named_parameters():
        small = parameter.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
        (plain if small else decayed).append(parameter)
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.2}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), eps=1e-6)


def fit(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], clip: float, on_step: Callable[[], object]) -> None:
    """The training script's loop: forward, loss, backward, clipping, update, clamp.

    Args:
        model: from `build`.
        batches: images ``[B, 3, H, W]`` and tokens ``[B, L]`` of one sentence per image, one entry per step.
        clip: largest norm of the gradient (``--grad-clip-norm``).
        on_step: called after each step.
    """
    loss, optimizer = part("loss").SigLipLoss(), optimizer_of(model)
    for images, tokens in batches:
        optimizer.zero_grad()
        total: Tensor = sum(loss(**model(images, tokens), output_dict=True).values())
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip, norm_type=2.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))  # type: ignore[operator]
        on_step()
