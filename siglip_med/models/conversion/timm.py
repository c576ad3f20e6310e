"""Vision transformers as timm and PanDerm's authors keep them, in the layers of transformers' `BeitModel`.

A class token, learned positions, norms before attention and perceptron, and a last norm (Dosovitskiy et al. 2020,
arXiv 2010.11929). `BeitModel` without its relative positions (Bao et al. 2021, arXiv 2106.08254) is that block, with
what some towers have besides:

- LayerScale (Touvron et al. 2021, arXiv 2103.17239), as in DINOv2 and UNI: ``lambda_1`` and ``lambda_2``;
- the last norm after the mean over patches, timm's ``fc_norm``: the norm of BEiT's pooler;
- no bias of the keys, as in PanDerm (Yan et al. 2025, arXiv 2410.15038), which is built like CAE and BEiT.

`BeitModel` has no bias of the keys in any case. Where timm has one, it is left out and nothing is lost: it adds the
same number to all scores of a query, of which a softmax takes no notice.

Sizes are read off the weights, and held to what the config says of them.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import BeitConfig, BeitModel

from siglip_med.core.errors import UserError
from siglip_med.models.conversion.weights import (
    TIMM_CONFIG,
    Converted,
    check,
    check_color,
    fill,
    log_left_out,
    log_unused,
    read_json,
    read_weights,
)
from siglip_med.models.hub import TIMM

_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
_SIZES |= {"huge": (1280, 32, 16), "test_vit": (64, 6, 2)}
"""Width, blocks and heads; ``test_vit`` is timm's own small model, for tests."""
_NAME = re.compile(
    r"(?:(?:vit|deit|panderm)_(tiny|small|base|large|huge)_patch\d+_(?:\d+|dinov2)|(test_vit))(?:\.\w+)?"
)
SUPPORTED = (
    "vit_{tiny,small,base,large,huge}_patch<side>_<image size>, test_vit, deit_{tiny,small,base}_patch16_<image size>, "
    "vit_{small,base,large}_patch14_dinov2, panderm_{base,large}_patch16_224"
)
_ENCODER = "encoder."
"""What PanDerm's pretraining puts before the names of its vision tower, beside which its other networks lie."""
PLACELESS = (".attention.k_proj.bias",)

_KINDS = ("weight", "bias")
_PLAIN = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
_LAYERS = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "fc_norm": "pooler.layernorm",
}
_IN_BLOCK = {
    "norm1": ("layernorm_before",),
    "norm2": ("layernorm_after",),
    "attn.qkv": tuple(f"attention.{one}_proj" for one in "qkv"),
    "attn.proj": ("attention.o_proj",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
_VECTORS = {
    **{f"attn.{one}_bias": f"attention.{one}_proj.bias" for one in "qv"},
    **{name: f"lambda_{number}" for number in (1, 2) for name in (f"ls{number}.gamma", f"gamma_{number}")},
}
"""PanDerm's spelling is the one with ``q_bias``, ``v_bias``, ``gamma_1`` and ``gamma_2``."""

_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "in_chans": (3,),
    "qkv_bias": (True,),
    "qk_norm": (False,),
    "scale_attn_norm": (False,),
    "scale_mlp_norm": (False,),
    "proj_bias": (True,),
    "class_token": (True,),
    "pos_embed": ("learn",),
    "no_embed_class": (False,),
    "reg_tokens": (0,),
    "pre_norm": (False,),
    "final_norm": (True,),
    "pool_include_prefix": (False,),
    "act_layer": ("gelu",),
}
"""Values of timm's ``model_args`` that leave the arithmetic as `BeitModel` has it."""
_READ = {"embed_dim", "depth", "num_heads", "mlp_ratio", "patch_size", "img_size", "init_values", "global_pool"}
_HARMLESS = {f"{name}_rate" for name in ("drop", "pos_drop", "patch_drop", "proj_drop", "attn_drop", "drop_path")}
_HARMLESS |= {"num_classes", "weight_init", "fix_init", "dynamic_img_size", "dynamic_img_pad", "strict_img_size"}
"""Settings of timm's own training, of the classifier, or of images of another size than ``img_size``."""


def vit_names(layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """timm's and PanDerm's names of the weights that a tower of so many blocks may have, and those of a `BeitModel`."""
    yield from ((old, (new,)) for old, new in _PLAIN.items())
    yield from ((f"{old}.{kind}", (f"{new}.{kind}",)) for old, new in _LAYERS.items() for kind in _KINDS)
    for there, here in ((f"blocks.{number}.", f"layers.{number}.") for number in range(layers)):
        for old, parts in _IN_BLOCK.items():
            yield from ((f"{there}{old}.{kind}", tuple(f"{here}{one}.{kind}" for one in parts)) for kind in _KINDS)
        yield from ((there + old, (here + new,)) for old, new in _VECTORS.items())


def named_sizes(name: str, where: str) -> dict[str, int]:
    """Sizes of an architecture that timm or PanDerm's authors named, under the keys of ``model_args``.

    Args:
        name: with or without the tag of its weights, such as ``vit_base_patch16_224``.
        where: the file and key, for the message.

    Raises:
        UserError: it is none of those that are converted.
    """
    known = _NAME.fullmatch(name)
    if known is None:
        raise UserError(f"{where}={name}: of timm's architectures are converted {SUPPORTED}")
    return dict(zip(("embed_dim", "depth", "num_heads"), _SIZES[known[1] or known[2]], strict=True))


def vit_config(theirs: Mapping[str, Tensor], heads: int) -> BeitConfig:
    """The configuration of a tower, as its weights (by timm's or PanDerm's names) have it; none shows the heads."""
    patch = theirs["patch_embed.proj.weight"].shape[-1]
    return BeitConfig(
        hidden_size=theirs["cls_token"].shape[-1],
        num_hidden_layers=sum(name.endswith("norm1.weight") for name in theirs),
        num_attention_heads=heads,
        intermediate_size=theirs["blocks.0.mlp.fc1.weight"].shape[0],
        patch_size=patch,
        image_size=patch * math.isqrt(theirs["pos_embed"].shape[1] - 1),
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        drop_path_rate=0.0,
        use_absolute_position_embeddings=True,
        layer_scale_init_value=float("blocks.0.ls1.gamma" in theirs or "blocks.0.gamma_1" in theirs),
        use_mean_pooling="fc_norm.weight" in theirs,
    )


def check_sizes(config: BeitConfig, said: Mapping[str, Any], where: str) -> None:
    """Makes sure that weights have the sizes that a config says.

    Args:
        config: from `vit_config`.
        said: under the keys of timm's ``model_args``; None is not said.
        where: the file, for the message.

    Raises:
        UserError: a size differs, or the heads do not divide the width.
    """
    found: dict[str, Any] = {
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "patch_size": config.patch_size,
    }
    found |= {"img_size": config.image_size, "layer_scale": bool(config.layer_scale_init_value)}
    found |= {"mlp_ratio": config.intermediate_size / config.hidden_size, "mean": config.use_mean_pooling}
    for key, value in found.items():
        if said.get(key) not in (None, value, [value, value]):
            raise UserError(
                f"{where}: {key}={said[key]}, but the weights beside it do not fit: they have {key}={value}"
            )
    if config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"{where}: num_heads={config.num_attention_heads} do not divide a width of {config.hidden_size}"
        )


def read_timm(folder: Path) -> Converted:
    """The tower of a folder in timm's format; its classifier is left out, which is logged.

    Raises:
        UserError: the tower is of a kind that is not converted, its config lacks something, or its weights are not
            what its config says.
    """
    path = folder / TIMM_CONFIG
    content = read_json(path)
    if content.get("model_type", TIMM) != TIMM:
        raise UserError(f"{folder} is in the format of the transformers library: give it to model.path or model.vision")
    named = named_sizes(content["architecture"], f"{path}: architecture")
    images = content.get("pretrained_cfg", content)  # older versions of timm had it all in one
    given = check(content.get("model_args") or {}, f"{path}: model_args", _READ | _HARMLESS | {"fc_norm"}, _ARGUMENTS)
    pools = (given.get("global_pool"), images.get("global_pool"), content.get("global_pool"))
    pool = next((one for one in pools if one is not None), "token")
    if pool not in ("", "token", "avg") or given.get("fc_norm") not in (None, pool == "avg"):
        raise UserError(
            f"{path}: global_pool={pool}, fc_norm={given.get('fc_norm')}: converted are token, and avg with fc_norm"
        )
    mean, std = (check_color(images.get(key), f"{path}: pretrained_cfg.{key}") for key in ("mean", "std"))
    theirs = _tower(read_weights(folder), folder)
    config = vit_config(theirs, given.get("num_heads", named["num_heads"]))
    always = "dinov2" in content["architecture"] or "panderm" in content["architecture"]
    scaled = given.get("init_values", always or None)  # UNI's config does not say it
    said = named | given | {"mean": pool == "avg", "layer_scale": None if scaled is None else bool(scaled)}
    check_sizes(config, said, str(path))
    if images.get("input_size") not in (None, [3, config.image_size, config.image_size]):
        raise UserError(
            f"{path}: pretrained_cfg.input_size={images['input_size']}: the weights have positions for images of "
            f"{config.image_size} pixels"
        )
    model = BeitModel(config)
    fill(model, theirs, vit_names(config.num_hidden_layers), path, placeless=PLACELESS)
    log_unused(folder, "pretrained_cfg", images, {"interpolation": "bicubic", "crop_pct": 1.0})
    settings = ("model=dual_encoder", "model.vision_pooling=pooler")
    return Converted(model.eval(), mean, std, "model.vision", settings)


def _tower(theirs: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Weights without those of pretraining and of a classifier, which are named in the log."""
    if any(key.startswith(_ENCODER) for key in theirs):
        others = [key for key in theirs if not key.startswith(_ENCODER)]
        log_left_out(folder, others, "what its pretraining needed beside the encoder")
        theirs = {key.removeprefix(_ENCODER): value for key, value in theirs.items() if key not in others}
    head = [key for key in theirs if key.startswith("head.")]
    log_left_out(folder, head, "its classifier")
    return {key: value for key, value in theirs.items() if key not in head}
