"""Vision transformers as timm keeps them, in the layers of transformers' `ViTModel` and `BeitModel`.

A class token, learned positions, norms before attention and perceptron, and a last norm (Dosovitskiy et al. 2020,
arXiv 2010.11929): the plain ones are a `ViTModel`, of the same arithmetic, but timm holds query, key and value in one
matrix. `BeitModel` without its relative positions (Bao et al. 2021, arXiv 2106.08254) is the same block with what some
of them have besides:

- LayerScale (Touvron et al. 2021, arXiv 2103.17239), as in DINOv2 and UNI: ``lambda_1`` and ``lambda_2``;
- the last norm after the mean over patches, timm's ``fc_norm``: the norm of BEiT's pooler;
- no bias of the keys, as in PanDerm (Yan et al. 2025, arXiv 2410.15038), which is built like CAE and BEiT.

`BeitModel` has no bias of the keys in any case. Where timm has one, it is left out and nothing is lost: it adds the
same number to all scores of a query, of which a softmax takes no notice. timm itself is not needed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import BeitConfig, ViTConfig

from siglip_med.core.errors import UserError

_WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "huge": 1280}
_LAYERS = {"tiny": 12, "small": 12, "base": 12, "large": 24, "huge": 32}
_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}
_PLAIN_NAME = re.compile(r"(?:vit|deit)_(tiny|small|base|large|huge)_patch(\d+)_(\d+)(?:\.\w+)?")
_DINOV2_NAME = re.compile(r"vit_(small|base|large)_patch(14)_(dinov2)(?:\.\w+)?")
_PANDERM_NAME = re.compile(r"panderm_(base|large)_patch(16)_(224)")
_TEST_NAME = re.compile(r"test_vit(?:\.\w+)?")
SUPPORTED = "vit_{tiny,small,base,large,huge}_patch<side>_<image size>, test_vit"
SUPPORTED_TOWERS = (
    f"{SUPPORTED}, deit_{{tiny,small,base}}_patch16_<image size>, vit_{{small,base,large}}_patch14_dinov2, "
    "panderm_{base,large}_patch16_224"
)

_EMBEDDINGS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
}
_IN_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_KINDS = ("weight", "bias")
_WITHOUT_PLACE = ".attention.k_proj.bias"


@dataclass(frozen=True)
class Architecture:
    """A vision transformer.

    Attributes:
        width: of a token.
        layers: number of blocks.
        heads: of an attention.
        hidden: units of a perceptron.
        patch: side of a patch in pixels.
        side: of an image in pixels.
        layer_scale: whether every residual branch has a factor per channel.
        panderm: whether it is spelled as PanDerm's: biases of query and value alone, and ``gamma_1``, ``gamma_2``.
        mean_pooled: whether the last norm comes after the mean over the patches.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    patch: int
    side: int
    layer_scale: bool = False
    panderm: bool = False
    mean_pooled: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is a `ViTModel`."""
        return not (self.layer_scale or self.panderm or self.mean_pooled)


def architecture_of(name: str) -> Architecture | None:
    """What timm (or PanDerm's authors) builds under a name; None if it is not one of those that are read.

    Args:
        name: with or without the tag of its weights, such as ``vit_base_patch16_224``.
    """
    if _TEST_NAME.fullmatch(name):  # timm's own small model, for tests
        return Architecture(width=64, layers=6, heads=2, hidden=192, patch=16, side=160)
    panderm, dinov2 = _PANDERM_NAME.fullmatch(name), _DINOV2_NAME.fullmatch(name)
    known = panderm or dinov2 or _PLAIN_NAME.fullmatch(name)
    if known is None:
        return None
    size = known[1]
    return Architecture(
        width=_WIDTHS[size],
        layers=_LAYERS[size],
        heads=_HEADS[size],
        hidden=4 * _WIDTHS[size],
        patch=int(known[2]),
        side=518 if dinov2 else int(known[3]),
        layer_scale=bool(panderm or dinov2),
        panderm=bool(panderm),
    )


def vit_config(name: str, source: str) -> ViTConfig:
    """The configuration of an architecture of timm.

    Args:
        name: timm's, with or without the tag of its weights, such as ``vit_base_patch16_224``.
        source: the model that asks for it, for the message.

    Raises:
        UserError: it is not one of the plain vision transformers.
    """
    known = architecture_of(name)
    if known is None or not known.is_plain:
        raise UserError(
            f"{source}: its vision tower {name} is none of timm's plain vision transformers, the only ones that are "
            f"read: {SUPPORTED}"
        )
    return plain_config(known)


def _sizes(known: Architecture) -> dict[str, Any]:
    """What both kinds of configuration say alike."""
    return {
        "hidden_size": known.width,
        "num_hidden_layers": known.layers,
        "num_attention_heads": known.heads,
        "intermediate_size": known.hidden,
        "patch_size": known.patch,
        "image_size": known.side,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def plain_config(known: Architecture) -> ViTConfig:
    """The configuration of a plain architecture."""
    return ViTConfig(
        **_sizes(known),
        qkv_bias=True,
    )


def beit_config(known: Architecture) -> BeitConfig:
    """The configuration of an architecture that is not plain."""
    return BeitConfig(
        **_sizes(known),
        drop_path_rate=0.0,
        use_absolute_position_embeddings=True,
        layer_scale_init_value=1.0 if known.layer_scale else 0.0,
        use_mean_pooling=known.mean_pooled,
    )


def vit_names(layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """timm's name of every weight, and those of a `ViTModel` without its pooler.

    Args:
        layers: number of blocks.
    """
    yield from _names(layers, ("norm", "layernorm"))
    for number in range(layers):
        yield from _joined_biases(number)


def beit_names(known: Architecture) -> Iterator[tuple[str, tuple[str, ...]]]:
    """timm's (or PanDerm's) name of every weight, and those of a `BeitModel`, with some that `has_place` denies."""
    yield from _names(known.layers, ("fc_norm", "pooler.layernorm") if known.mean_pooled else ("norm", "layernorm"))
    for number in range(known.layers):
        there, here = f"blocks.{number}", f"layers.{number}"
        if known.panderm:
            yield from ((f"{there}.attn.{one}_bias", (f"{here}.attention.{one}_proj.bias",)) for one in "qv")
        else:
            yield from _joined_biases(number)
        if known.layer_scale:
            for one in (1, 2):
                yield f"{there}." + (f"gamma_{one}" if known.panderm else f"ls{one}.gamma"), (f"{here}.lambda_{one}",)


def has_place(name: str) -> bool:
    """Whether a `BeitModel` has a weight that `beit_names` gives: all but the biases of the keys."""
    return not name.endswith(_WITHOUT_PLACE)


def _names(layers: int, last_norm: tuple[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from ((theirs, (ours,)) for theirs, ours in _EMBEDDINGS.items())
    yield from ((f"{last_norm[0]}.{kind}", (f"{last_norm[1]}.{kind}",)) for kind in _KINDS)
    for number in range(layers):
        there, here = f"blocks.{number}", f"layers.{number}"
        yield f"{there}.attn.qkv.weight", tuple(f"{here}.attention.{one}_proj.weight" for one in "qkv")
        for kind in _KINDS:
            yield from ((f"{there}.{old}.{kind}", (f"{here}.{new}.{kind}",)) for old, new in _IN_BLOCK.items())


def _joined_biases(number: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield f"blocks.{number}.attn.qkv.bias", tuple(f"layers.{number}.attention.{one}_proj.bias" for one in "qkv")
