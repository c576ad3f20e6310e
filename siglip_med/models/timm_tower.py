"""A folder or hub id in timm's format as the vision tower of a dual encoder.

timm's ``config.json`` names an architecture and no ``model_type``, and timm's weights have timm's names. What is read
is in `siglip_med.models.timm_vit`; whatever else would change what the tower computes is refused, with its key.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor
from transformers import BeitModel, PreTrainedModel, ViTModel

from siglip_med.core.errors import UserError
from siglip_med.models.foreign_files import find_folder, name_unused, read_tensors, square_images
from siglip_med.models.renaming import misfits, renamed
from siglip_med.models.timm_vit import (
    SUPPORTED_TOWERS,
    Architecture,
    architecture_of,
    beit_config,
    beit_names,
    has_place,
    plain_config,
    vit_names,
)

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_WRAPPED = ("model", "state_dict")
_ENCODER = "encoder."
"""What PanDerm's pretraining puts before the names of its vision tower, beside which its other networks lie."""
_LAYER_SCALE = "blocks.0.ls1.gamma"
"""Some configs leave it to their users to pass ``init_values`` (UNI's does); the name has one meaning in timm."""

_SAME: dict[str, tuple[Any, ...]] = {
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
"""Values of timm's ``model_args`` that leave the arithmetic as it is; None is always the default."""
_HARMLESS = {
    "num_classes",
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "weight_init",
    "fix_init",
    "dynamic_img_size",
    "dynamic_img_pad",
    "strict_img_size",
}
"""Settings of timm's own training, of the classifier, or of images of another size than ``img_size``."""
_READ = {
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "patch_size",
    "img_size",
    "init_values",
    "global_pool",
    "fc_norm",
}


@dataclass(frozen=True)
class TimmTower:
    """A vision tower that was read from timm's format.

    Attributes:
        model: in float32, of the transformers library.
        image_processor: of the transformers library, with the mean and std of ``pretrained_cfg``.
        architecture: timm's name of it.
        pooling: how timm pools it: ``cls``, or ``pooler`` where a norm follows the mean over the patches.
    """

    model: PreTrainedModel
    image_processor: Any
    architecture: str
    pooling: str


def find_timm(path: str, revision: str | None) -> dict[str, Any] | None:
    """What ``config.json`` says, if it is timm's; None if it is another library's or cannot be had.

    Args:
        path: a folder or hub id, from `resolve_path`.
        revision: commit, tag or branch of the hub.
    """
    try:
        file = Path(path) / CONFIG_FILE
        if not Path(path).is_dir():
            file = Path(hf_hub_download(path, CONFIG_FILE, revision=revision))
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, HfHubHTTPError):
        return None  # the library needs the same file, and says why it cannot be had
    theirs = isinstance(content, dict) and "model_type" not in content and isinstance(content.get("architecture"), str)
    return content if theirs else None


def read_timm(path: str, revision: str | None, content: Mapping[str, Any], size: int | None) -> TimmTower:
    """The tower that a folder or hub id in timm's format holds; its classifier is left out, which is logged.

    Args:
        path: a folder or hub id, from `resolve_path`.
        revision: commit, tag or branch of the hub.
        content: from `find_timm`.
        size: side of the images that is asked for in pixels; None is the tower's own.

    Raises:
        UserError: the tower is of a kind that is not read, its config lacks something, or its weights are not what its
            config says.
    """
    where = str(Path(path) / CONFIG_FILE)
    images = content.get("pretrained_cfg", content)  # older versions of timm had it all in one
    if not isinstance(images, Mapping):
        raise _refused(where, "pretrained_cfg", images, "a mapping is needed")
    known = _architecture(content, images, where)
    if size not in (None, known.side):
        raise UserError(
            f"model.image_size={size}: {path} has positions for images of {known.side} pixels alone; give "
            "model.image_size=null"
        )
    mean, std = _color(images, "mean", where), _color(images, "std", where)
    folder = find_folder(path, revision, CONFIG_FILE, WEIGHTS, others=[CONFIG_FILE])
    theirs = read_tensors(folder, WEIGHTS, path, _WRAPPED)
    silent = (content.get("model_args") or {}).get("init_values") is None
    if silent and not known.layer_scale and _LAYER_SCALE in theirs:
        logger.warning(
            "%s: its weights have LayerScale (%s, …), its config says nothing of it: read", path, _LAYER_SCALE
        )
        known = replace(known, layer_scale=True)
    model: Any
    if known.is_plain:
        model = ViTModel(plain_config(known), add_pooling_layer=False)
    else:
        model = BeitModel(beit_config(known))
    _fill(model, known, theirs, path)
    name_unused(path, "pretrained_cfg", images, {"interpolation": "bicubic", "crop_pct": 1.0})
    pooling = "pooler" if known.mean_pooled else "cls"
    return TimmTower(model.eval(), square_images(known.side, mean, std), str(content["architecture"]), pooling)


def _fill(model: PreTrainedModel, known: Architecture, theirs: dict[str, Tensor], path: str) -> None:
    if known.panderm and any(key.startswith(_ENCODER) for key in theirs):
        others = sorted(key for key in theirs if not key.startswith(_ENCODER))
        theirs = {key.removeprefix(_ENCODER): value for key, value in theirs.items() if key.startswith(_ENCODER)}
        _left_out(path, others, "what its pretraining needed beside the encoder")
    head = sorted(key for key in theirs if key.startswith("head."))
    _left_out(path, head, "its classifier")
    names = list(vit_names(known.layers) if known.is_plain else beit_names(known))
    state, left = renamed({key: value for key, value in theirs.items() if key not in head}, names)
    if not known.is_plain:
        state = {key: value for key, value in state.items() if has_place(key)}
    wrong = misfits(state, model.state_dict(), left)
    if wrong:
        timms = {ours: old for old, new in names for ours in new}
        shown = list(dict.fromkeys(timms.get(name, name) for name in wrong))
        raise UserError(
            f"the weights of {path} do not fit its {CONFIG_FILE}: {len(shown)} differ ({', '.join(shown[:3])}); "
            "fc_norm goes with model_args.global_pool=avg, ls1 and ls2 with model_args.init_values"
        )
    model.load_state_dict(state)


def _left_out(path: str, names: list[str], what: str) -> None:
    if names:
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        logger.warning("%s: %d weights left out (%s): %s", path, len(names), shown, what)


def _architecture(content: Mapping[str, Any], images: Mapping[str, Any], where: str) -> Architecture:
    name, arguments = content["architecture"], content.get("model_args") or {}
    known = architecture_of(name)
    if known is None:
        raise _refused(where, "architecture", name, f"of timm's format are read {SUPPORTED_TOWERS}")
    if not isinstance(arguments, Mapping):
        raise _refused(where, "model_args", arguments, "a mapping is needed")
    given = {key: value for key, value in arguments.items() if value is not None}
    for key, value in given.items():
        if key in _SAME and value not in _SAME[key]:
            raise _refused(where, f"model_args.{key}", value, f"only {_SAME[key][0]!r} is read")
        if key not in _SAME and key not in _HARMLESS and key not in _READ:
            raise _refused(where, f"model_args.{key}", value, "it is not known what it changes")
    ratio = given.get("mlp_ratio", known.hidden / known.width)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or ratio <= 0:
        raise _refused(where, "model_args.mlp_ratio", ratio, "a positive number is needed")
    width = _whole(given, "embed_dim", known.width, where)
    known = replace(
        known,
        width=width,
        hidden=int(width * ratio),
        layers=_whole(given, "depth", known.layers, where),
        heads=_whole(given, "num_heads", known.heads, where),
        patch=_whole(given, "patch_size", known.patch, where),
        layer_scale=bool(given.get("init_values", known.layer_scale)),
        mean_pooled=_mean_pooled(content, images, given, where),
    )
    if known.width % known.heads:
        raise _refused(where, "model_args.num_heads", known.heads, f"it does not divide the width of {known.width}")
    return replace(known, side=_image_side(images, given, known, where))


def _mean_pooled(
    content: Mapping[str, Any], images: Mapping[str, Any], arguments: Mapping[str, Any], where: str
) -> bool:
    """Whether the tower is pooled by a mean, as timm finds it; the entry at the top is what the tower was saved as."""
    pool, key = "token", "global_pool"
    for place, entries in (("model_args.", arguments), ("pretrained_cfg.", images), ("", content)):
        if entries.get("global_pool") is not None:
            pool, key = entries["global_pool"], f"{place}global_pool"
            break
    if pool not in ("", "token", "avg"):
        raise _refused(where, key, pool, "read are token and avg")
    norm = arguments.get("fc_norm", pool == "avg")
    if norm is not (pool == "avg"):
        raise _refused(where, "model_args.fc_norm", norm, f"it is not read with {key}={pool!r}")
    return bool(norm)


def _image_side(images: Mapping[str, Any], arguments: Mapping[str, Any], known: Architecture, where: str) -> int:
    side = _whole(arguments, "img_size", known.side, where)
    size = images.get("input_size")
    if size is not None:
        if not (isinstance(size, list) and len(size) == 3 and size[0] == 3):
            raise _refused(where, "pretrained_cfg.input_size", size, "[3, side, side] is needed")
        input_side = _whole({"input_size": size[1:]}, "input_size", side, where, "pretrained_cfg")
        if "img_size" in arguments and input_side != side:
            raise _refused(where, "pretrained_cfg.input_size", size, f"model_args.img_size is {side}")
        side = input_side
    if side % known.patch:
        raise _refused(where, "pretrained_cfg.input_size", side, f"patches of {known.patch} pixels do not fill it")
    return side


def _whole(entries: Mapping[str, Any], key: str, default: int, where: str, part: str = "model_args") -> int:
    """A positive whole number, or two that are the same."""
    value = entries.get(key, default)
    one = value[0] if isinstance(value, list) and len(value) == 2 and value[0] == value[1] else value
    if isinstance(one, bool) or not isinstance(one, int) or one < 1:
        raise _refused(where, f"{part}.{key}", value, "a positive whole number is needed, or two that are equal")
    return one


def _color(images: Mapping[str, Any], key: str, where: str) -> list[float]:
    value = images.get(key)
    numbers = isinstance(value, list) and len(value) == 3
    if not numbers or any(isinstance(one, bool) or not isinstance(one, int | float) for one in value or []):
        raise _refused(where, f"pretrained_cfg.{key}", value, "three numbers are needed, as its training had them")
    if key == "std" and min(value or [0]) <= 0:
        raise _refused(where, f"pretrained_cfg.{key}", value, "three positive numbers are needed")
    return [float(one) for one in value or []]


def _refused(where: str, key: str, value: Any, why: str) -> UserError:
    return UserError(f"{where}: {key}={value}: {why}")
