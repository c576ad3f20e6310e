"""Files of other libraries: found, read as plain data, and their weights under the names of transformers."""

import json
import logging
import pickle
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from siglip_med.core.errors import UserError, one_line
from siglip_med.models.hub import explained, local_folder

logger = logging.getLogger(__name__)

OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, TIMM_CONFIG = "open_clip_config.json", "open_clip_model.safetensors", "config.json"
_SAFE = (OPEN_CLIP_WEIGHTS, "model.safetensors")
_PICKLED = ("open_clip_pytorch_model.bin", "pytorch_model.bin")
_WRAPPED = ("model", "state_dict")
"""Keys under which a file of torch may hold its weights: PanDerm's does."""

Names = Iterable[tuple[str, tuple[str, ...]]]
"""Another library's name of a weight, and its name here; several where that library holds them in one matrix."""


@dataclass(frozen=True)
class Converted:
    """A model of the transformers library, and what lies beside it.

    Attributes:
        model: in float32.
        mean: of the red, green and blue values, between 0 and 1.
        std: the same, what they are divided by.
        key: of ``train.py``, for the folder that it will lie in.
        settings: of ``train.py`` besides, as one types them.
        tokenizer: of a model that has a text tower.
    """

    model: PreTrainedModel
    mean: list[float]
    std: list[float]
    key: str
    settings: tuple[str, ...]
    tokenizer: Any = None


def find_source(source: str, revision: str | None) -> Path:
    """The folder of a model, downloaded if it is an id of the hub; a UserError where there is no such model."""
    folder = local_folder(source)
    if folder is None:
        with explained(source, revision):
            for weights in (_SAFE, _PICKLED):
                patterns = ["*.json", "*.txt", *weights]
                folder = Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
                if any((folder / file).is_file() for file in weights):
                    break
    assert folder is not None
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """A config; a UserError where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({one_line(error)}): a folder in the format of open_clip or timm is needed"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged or was written by something else: it holds no mapping")
    return content


def check(
    part: Mapping[str, Any], where: str, read: Collection[str], only: Mapping[str, tuple[Any, ...]] | None = None
) -> dict[str, Any]:
    """What a part of a config sets, once nothing in it is known to make another model.

    Args:
        part: of the config.
        where: the file and the part, for the message.
        read: keys that are read elsewhere, or that change nothing of what the model computes.
        only: key -> the values that are converted.

    Raises:
        UserError: another key or value is set.
    """
    only = only or {}
    given = {key: value for key, value in part.items() if value is not None}
    for key, value in given.items():
        if key in only and value not in only[key]:
            raise UserError(f"{where}.{key}={value}: converted are {', '.join(map(repr, only[key]))}")
        if key not in only and key not in read and value is not False:
            raise UserError(f"{where}.{key}={value}: it is not known what it changes, so it is not converted")
    return given


def check_color(values: Any, where: str) -> list[float]:
    """Three numbers, as a config gives them; a UserError where they are none."""
    if not (isinstance(values, list) and len(values) == 3 and all(type(value) in (int, float) for value in values)):
        raise UserError(f"{where}={values}: three numbers are needed, as its training had them")
    return [float(value) for value in values]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Weights by the other library's names, in float32; a file of torch is read as tensors and runs nothing.

    Raises:
        UserError: there are none, or the file is damaged or holds something else.
    """
    files = [folder / name for name in (*_SAFE, *_PICKLED) if (folder / name).is_file()]
    if not files:
        raise UserError(
            f"{folder}: holds none of {', '.join((*_SAFE, *_PICKLED))} (weights in other files are not read)"
        )
    found: Any
    if files[0].suffix == ".safetensors":
        with explained(str(folder), None):
            found = load_file(files[0])
    else:
        try:
            found = torch.load(files[0], map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]  # an empty file's error says nothing
            raise UserError(
                f"{files[0]} is damaged, or holds more than tensors and was not loaded, since that could run code: "
                f"{reason}"
            ) from error
        inner = [found[key] for key in _WRAPPED if isinstance(found, dict) and isinstance(found.get(key), dict)]
        found = inner[0] if inner else found
        if not (isinstance(found, dict) and all(isinstance(value, Tensor) for value in found.values())):
            raise UserError(f"{files[0]} holds something else than the weights of a model")
    return {key: value.float() for key, value in found.items()}


def fill(
    model: PreTrainedModel,
    theirs: Mapping[str, Tensor],
    names: Names,
    config: Path,
    transposed: Collection[str] = (),
    placeless: Collection[str] = (),
) -> None:
    """Puts weights into a model; a ``logit_bias`` that they lack stays as it is.

    Args:
        model: as the config says.
        theirs: weights by the other library's names.
        names: of both.
        config: the file, for the message.
        transposed: which of the other library's names it holds transposed.
        placeless: ends of names here that have no place in the model and change nothing.

    Raises:
        UserError: a weight is missing, has no place, or is of another shape.
    """
    left, origin = dict(theirs), dict[str, str]()
    state: dict[str, Tensor] = {}
    for old, new in names:
        origin |= dict.fromkeys(new, old)
        if old in left:
            value = left.pop(old).T if old in transposed else left.pop(old)
            parts = value.chunk(len(new)) if len(new) > 1 else (value,)
            state |= {name: part.contiguous() for name, part in zip(new, parts, strict=True)}
    state = {name: value for name, value in state.items() if not name.endswith(tuple(placeless))}
    known = {name: value for name, value in model.state_dict().items() if not name.endswith("position_ids")}
    if "logit_bias" in known:
        state.setdefault("logit_bias", known["logit_bias"])
    wrong = [*sorted(left), *sorted(known.keys() ^ state.keys())]
    wrong = wrong or [name for name, value in known.items() if value.shape != state[name].shape]
    if wrong:
        shown = list(dict.fromkeys(origin.get(name, name) for name in wrong))
        raise UserError(
            f"the weights beside {config} do not fit it: {len(shown)} differ ({', '.join(shown[:3])}): download them "
            "again, or correct the config"
        )
    model.load_state_dict(state, strict=False)


def renamed_back(ours: Mapping[str, Tensor], names: Names, transposed: Collection[str] = ()) -> dict[str, Tensor]:
    """The weights of a model under another library's names; arguments as in `fill`."""
    state = {}
    for old, new in names:
        value = torch.cat([ours[name] for name in new]) if len(new) > 1 else ours[new[0]]
        state[old] = value.T.contiguous() if old in transposed else value
    return state


def log_left_out(folder: Path, names: Collection[str], what: str) -> None:
    """Names weights that are not converted, if there are any."""
    if names:
        shown = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
        logger.warning("%s: %d weights left out (%s): %s", folder, len(names), shown, what)


def log_unused(folder: Path, part: str, given: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Names what a config says of images that they do not get here.

    Args:
        folder: of the model.
        part: of its config.
        given: that part.
        ours: key -> the value that images get.
    """
    other = [f"{part}.{key}={given[key]}" for key, value in ours.items() if given.get(key) not in (None, value)]
    if other:
        message = "%s: %s not used: images become squares whole, bicubic, as everywhere here"
        logger.warning(message, folder, ", ".join(other))
