"""Vision transformers as timm keeps them, in the layers of transformers' `ViTModel`.

Only the plain ones (Dosovitskiy et al. 2020, arXiv 2010.11929): a class token, learned positions, norms before
attention and perceptron, one norm at the end. It is the same arithmetic in both libraries, but timm holds query, key
and value in one matrix. timm itself is not needed.
"""

import re
from collections.abc import Iterator

from transformers import ViTConfig

from siglip_med.errors import UserError

_WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "huge": 1280}
_LAYERS = {"tiny": 12, "small": 12, "base": 12, "large": 24, "huge": 32}
_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}
_NAME = re.compile(r"vit_(tiny|small|base|large|huge)_patch(\d+)_(\d+)(?:\.\w+)?")
_TEST = re.compile(r"test_vit(?:\.\w+)?")
SUPPORTED = "vit_{tiny,small,base,large,huge}_patch<side>_<image size>, test_vit"

_PLAIN = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_IN_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def vit_config(name: str, source: str) -> ViTConfig:
    """The configuration of an architecture of timm.

    Args:
        name: timm's, with or without the tag of its weights, such as ``vit_base_patch16_224``.
        source: the model that asks for it, for the message.

    Raises:
        UserError: it is not one of the plain vision transformers.
    """
    known = _NAME.fullmatch(name)
    if known is not None:
        size, patch, side = known[1], int(known[2]), int(known[3])
        width, layers, heads, hidden = _WIDTHS[size], _LAYERS[size], _HEADS[size], 4 * _WIDTHS[size]
    elif _TEST.fullmatch(name):  # timm's own small model, for tests
        width, layers, heads, hidden, patch, side = 64, 6, 2, 192, 16, 160
    else:
        raise UserError(
            f"{source}: its vision tower {name} is none of timm's plain vision transformers, the only ones that are "
            f"read: {SUPPORTED}"
        )
    return ViTConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=hidden,
        patch_size=patch,
        image_size=side,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        qkv_bias=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def vit_names(layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """timm's name of every weight, and those of a `ViTModel` without its pooler.

    Args:
        layers: number of blocks.
    """
    yield from ((theirs, (ours,)) for theirs, ours in _PLAIN.items())
    for number in range(layers):
        there, here = f"blocks.{number}", f"layers.{number}"
        for kind in ("weight", "bias"):
            yield f"{there}.attn.qkv.{kind}", tuple(f"{here}.attention.{one}_proj.{kind}" for one in "qkv")
            yield from ((f"{there}.{old}.{kind}", (f"{here}.{new}.{kind}",)) for old, new in _IN_BLOCK.items())
