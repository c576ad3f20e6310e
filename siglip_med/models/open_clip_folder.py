"""The files of a model in open_clip's format: its config, its weights, how its images are prepared."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from siglip_med.core.errors import UserError
from siglip_med.core.image_spec import ImageSpec
from siglip_med.models import foreign_files
from siglip_med.models.renaming import Names, misfits, renamed

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
TORCH_FILE = "open_clip_pytorch_model.bin"
"""Where a model has no ``WEIGHTS_FILE`` (BiomedCLIP has none), this one is read, as plain tensors and nothing else."""
_WEIGHTS = (WEIGHTS_FILE, TORCH_FILE)

READABLE = "CLIP with ViT towers, or a plain ViT of timm or PanDerm's tower beside a BERT"
"""What is read from open_clip's format, for messages."""


def find_folder(path: str, revision: str | None) -> Path:
    """The folder of a model, downloaded if it is an id of the hub.

    Raises:
        UserError: there is no such model, or it lacks its config or its weights.
    """
    return foreign_files.find_folder(path, revision, CONFIG_FILE, _WEIGHTS, others=["*.json", "*.txt"])


def read_config(folder: Path) -> dict[str, Any]:
    """What ``open_clip_config.json`` says; ``vision_cfg`` and ``text_cfg`` are mappings.

    Raises:
        UserError: it is damaged.
    """
    try:
        content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        parts = content["model_cfg"]["vision_cfg"], content["model_cfg"]["text_cfg"]
        if not all(isinstance(part, dict) for part in parts):
            raise TypeError("vision_cfg and text_cfg have to be mappings")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, error) from error
    return dict(content)


def damaged(folder: Path, error: Exception) -> UserError:
    """For a config in which something is missing or of another type."""
    return UserError(f"{folder / CONFIG_FILE} is damaged or was written by something else: {error!r}")


def refuse_others(
    name: str, part: str, settings: Mapping[str, Any], known: Collection[str], harmless: Collection[str]
) -> None:
    """Makes sure that a config sets nothing that would make another model.

    Args:
        name: of the model, for the message.
        part: of the config.
        settings: in that part.
        known: keys that are read.
        harmless: keys that change nothing.

    Raises:
        UserError: something else is set.
    """
    for key, value in settings.items():
        if key not in known and key not in harmless and value not in (None, False):
            raise UserError(
                f"{name}: its {part}.{key}={value} makes it another model than those that are read from open_clip's "
                f"format ({READABLE}); give its towers in the format of the transformers library to model=dual_encoder"
            )


def fill(
    model: PreTrainedModel,
    folder: Path,
    name: str,
    names: Names,
    transposed: Collection[str] = (),
    dropped: str = "",
) -> None:
    """Puts a folder's weights into a model, in float32; a bias of the logits, if any, becomes its ``logit_bias``.

    Args:
        model: as the folder's config says.
        folder: from `find_folder`.
        name: of the model, for messages.
        names: of every weight there and here.
        transposed: names there of matrices that are transposed here.
        dropped: a start of names that some of its classes have and others lack.

    Raises:
        UserError: the weights cannot be read, or are not what the config says.
    """
    theirs = {key.removeprefix(dropped): value for key, value in _read_weights(folder, name).items()}
    bias = theirs.pop("logit_bias", None)
    state, left = renamed(theirs, names, transposed)
    wrong = misfits(state, model.state_dict(), left)
    if wrong:
        shown = ", ".join(wrong[:3])
        raise UserError(f"the weights of {name} do not fit its {CONFIG_FILE}: {len(wrong)} differ ({shown})")
    model.load_state_dict(state, strict=False)
    if bias is not None:
        model.register_parameter("logit_bias", torch.nn.Parameter(bias.reshape(())))


def _read_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """Weights by open_clip's names, without the buffers that follow from the config."""
    found = foreign_files.read_tensors(folder, _WEIGHTS, name)
    return {key: value for key, value in found.items() if not key.endswith(("attn_mask", "position_ids"))}


def read_processor(preprocess: Mapping[str, Any] | None, side: int, name: str) -> Any:
    """The library's image processor for such images; what else the config says of them is logged as not used.

    Args:
        preprocess: ``preprocess_cfg`` of a config, if it has one.
        side: of the images, in pixels.
        name: of the model, for messages.
    """
    given = preprocess or {}
    ours = {"interpolation": "bicubic", "resize_mode": "squash"}
    foreign_files.name_unused(name, "preprocess_cfg", given, ours)
    mean = given.get("mean", [0.48145466, 0.4578275, 0.40821073])
    return foreign_files.square_images(side, mean, given.get("std", [0.26862954, 0.26130258, 0.27577711]))


def preprocess_of(spec: ImageSpec) -> dict[str, Any]:
    """``preprocess_cfg`` of images as this project makes them: squashed to a square, bicubic."""
    return {"mean": list(spec.mean), "std": list(spec.std), "interpolation": "bicubic", "resize_mode": "squash"}
