"""An export read back: what ``siglip-med-export`` writes with ``format=merged`` is a model again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveFloat, PositiveInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from siglip_med.core.errors import UserError, first_fault, one_line
from siglip_med.core.seals import check_sums
from siglip_med.core.trust import build_trusted
from siglip_med.models.checkpoint import MODEL_BUILDERS, Described
from siglip_med.models.dual import DualEncoder
from siglip_med.models.hub import not_finite
from siglip_med.models.joint import ClipTwoTower, NaflexTwoTower, Siglip2TwoTower, SiglipTwoTower, VitBertTwoTower
from siglip_med.models.reading import check_reading
from siglip_med.models.refit import REFIT_FILE
from siglip_med.models.two_tower import TwoTower

ABOUT_FILE = "conditions.json"
HEADS_FILE = "heads.safetensors"
_TARGET = "siglip_med.models"
_FROZEN = {"_target_": "siglip_med.models.Frozen"}
_AGAIN = "export it again with format=merged, or give the checkpoint"


class Family(BaseModel):
    """Which builder an export belongs to, and what a dual encoder's two folders do not say themselves."""

    model_config = ConfigDict(extra="forbid", strict=True)

    family: Literal["siglip", "siglip2", "clip", "dual_encoder"]
    embedding_dim: PositiveInt | None = None
    max_text_length: PositiveInt | None = None
    image_size: PositiveInt | None = None
    image_hidden: Annotated[int, Field(ge=0)] | None = None
    vision_pooling: Literal["cls", "mean", "pooler"] | None = None
    text_pooling: Literal["cls", "mean", "pooler"] | None = None


class About(Described):
    """The shape of ``conditions.json``; a folder may come from anybody."""

    logit_scale: Annotated[PositiveFloat, FiniteFloat]
    logit_bias: FiniteFloat
    refit: str | None = None
    model: Family


_FAMILIES: dict[type[TwoTower], str] = {
    SiglipTwoTower: "siglip",
    Siglip2TwoTower: "siglip2",
    NaflexTwoTower: "siglip2",
    ClipTwoTower: "clip",
    VitBertTwoTower: "clip",
    DualEncoder: "dual_encoder",
}


def family_of(model: TwoTower) -> dict[str, Any]:
    """What an export says of its model, for `load_export`; a UserError for a class of one's own."""
    if type(model) not in _FAMILIES:
        raise UserError(
            f"{type(model).__name__} is a tower of your own: no export format holds it; predict, evaluate and the page "
            "take its checkpoint"
        )
    family: dict[str, Any] = {"family": _FAMILIES[type(model)]}
    if isinstance(model, DualEncoder):
        hidden = model.image_head.hidden
        family |= {
            "embedding_dim": model.embedding_dim,
            "max_text_length": model.max_text_length,
            "image_size": model.image_spec.size,
            "image_hidden": 0 if hidden is None else hidden.out_features,
            "vision_pooling": model.vision_pooling,
            "text_pooling": model.text_pooling,
        }
    return family


def load_export(folder: str | Path) -> tuple[TwoTower, dict[str, Any]]:
    """Builds the model of an export; like a checkpoint, it runs no code that hides in its files.

    Args:
        folder: of ``siglip-med-export`` with ``format=merged``.

    Returns:
        The model in evaluation mode, and of a checkpoint's payload what the folder holds: ``conditions``, ``codes``,
        ``prompts``, ``calibration``, ``refit``, ``familiarity``, ``provenance``.

    Raises:
        UserError: the folder is no such export, was altered, or its files do not fit each other.
    """
    folder = Path(folder)
    about = _read_about(folder)
    check_sums(folder)  # those of a dual encoder lie above its two folders, where nothing else looks
    scale, bias = about.logit_scale, about.logit_bias
    family = about.model.family
    node: dict[str, Any] = {
        "_target_": f"{_TARGET}.{family}",
        "adaptation": _FROZEN,
        "logits": {
            "_target_": f"{_TARGET}.Logits",
            "scale": scale,
            "bias": bias,
            "scale_range": [scale / 2, scale * 2],
            "bias_range": [bias - 1, bias + 1],
        },
    }
    dual = family == "dual_encoder"
    if dual:
        node |= {"vision": str(folder / "vision"), "text": str(folder / "text")}
        node |= about.model.model_dump(exclude={"family"}, exclude_none=True)
    else:
        node["path"] = str(folder)
    with torch.random.fork_rng(devices=[]):  # the random numbers of heads are overwritten: leave the caller's alone
        model: TwoTower = build_trusted(node, MODEL_BUILDERS, "model", str(folder))
    if dual:
        _load_heads(model, folder / HEADS_FILE)
    check_reading(model, about.prompts, about.reading, str(folder))
    model.image_spec = replace(model.image_spec, bits=about.image_bits)
    found = about.model_dump(include={"conditions", "codes", "prompts", "calibration", "familiarity", "provenance"})
    if about.refit is not None:
        found["refit"] = {"about": about.refit, "arrays": _load(folder / REFIT_FILE)}
    return model.eval(), found


def _read_about(folder: Path) -> About:
    path = folder / ABOUT_FILE
    if not path.is_file():
        raise UserError(f"{folder} is no export: it holds no {ABOUT_FILE}; give a checkpoint, or a merged export")
    if (folder / "adapter_config.json").is_file() or list(folder.glob("*/adapter_config.json")):
        raise UserError(f"{folder} is an export with format=peft, which names a base and does not hold it; {_AGAIN}")
    for file, format in {"vision.onnx": "onnx", "open_clip_config.json": "open_clip"}.items():
        if (folder / file).is_file():
            raise UserError(f"{folder} is an export with format={format}, for other software; {_AGAIN}")
    try:
        about = About.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise UserError(f"{path}: {first_fault(error)}; {_AGAIN}") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); {_AGAIN}") from error
    return about


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); {_AGAIN}") from error
    if (undefined := not_finite(tensors)) is not None:
        raise UserError(f"{path}: {undefined} is not finite; {_AGAIN}")
    return tensors


def _load_heads(model: TwoTower, path: Path) -> None:
    heads = _load(path)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("backbones.")}
    if {name: value.shape for name, value in heads.items()} != {name: value.shape for name, value in own.items()}:
        raise UserError(f"{path}: its weights are not those that {ABOUT_FILE} describes; {_AGAIN}")
    model.load_state_dict(heads, strict=False)
