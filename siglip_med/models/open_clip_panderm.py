"""PanDerm's vision tower as open_clip's copy of DermLIP's authors keeps it (Yan et al. 2025, arXiv 2503.14911).

Their ``open_clip_config.json`` does not name this tower. Their code puts it into every model with ``PanDerm-base`` in
its name, and needs ``vision_cfg.pretrain_path`` for that, so this key is always there and nowhere else.

Its blocks are PanDerm's (`siglip_med.models.timm_vit`). Over them, as their code has it, lies one norm that is used
twice: on every token, and again on the mean over the patches. A linear head with a bias leads into the shared space.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from siglip_med.core.errors import UserError
from siglip_med.models.open_clip_folder import refuse_others
from siglip_med.models.timm_vit import Architecture, beit_names

PATH_KEY = "pretrain_path"
"""It names PanDerm's weights on the machine that began the training, or nothing."""

_SIZES = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16}
"""What is read of ``vision_cfg``, with open_clip's defaults, which are PanDerm-base."""
_HEAD, _RATIO = 64, 4
"""Width of a head, and units of a perceptron over those of a token: no key says them, and every PanDerm has these."""


def is_panderm(model_cfg: Mapping[str, Any]) -> bool:
    """Whether the vision tower of a config is PanDerm's."""
    vision = model_cfg["vision_cfg"]
    return PATH_KEY in vision and not vision.get("timm_model_name")


def panderm_tower(vision_cfg: Mapping[str, Any], name: str) -> Architecture:
    """The tower that ``vision_cfg`` describes; whether it is PanDerm's shows in the weights.

    Args:
        vision_cfg: of a config that `is_panderm`.
        name: of the model, for messages.

    Raises:
        UserError: something is set that is not read, or a size is none.
    """
    refuse_others(name, "vision_cfg", vision_cfg, _SIZES, {PATH_KEY})
    sizes = {key: vision_cfg.get(key, default) for key, default in _SIZES.items()}
    for key, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(f"{name}: its vision_cfg.{key} is {size!r}; a positive whole number is needed")
    if sizes["width"] % _HEAD:
        raise UserError(f"{name}: its vision_cfg.width is {sizes['width']}; PanDerm's heads are {_HEAD} wide each")
    if sizes["image_size"] % sizes["patch_size"]:
        raise UserError(
            f"{name}: its vision_cfg.image_size is {sizes['image_size']}; patches of {sizes['patch_size']} pixels do "
            "not fill it"
        )
    return Architecture(
        width=sizes["width"],
        layers=sizes["layers"],
        heads=sizes["width"] // _HEAD,
        hidden=_RATIO * sizes["width"],
        patch=sizes["patch_size"],
        side=sizes["image_size"],
        layer_scale=True,
        panderm=True,
    )


def panderm_names(known: Architecture) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Their name of every weight of the vision tower and its head, and those of a `VitBertModel`."""
    for old, new in beit_names(known):
        yield f"visual.{old}", tuple(f"vision_model.{name}" for name in new)
    for kind in ("weight", "bias"):
        yield f"visual.head.{kind}", (f"visual_projection.{kind}",)
