"""Files of models that other libraries wrote: had from the hub, read as tensors, and how their images are prepared."""

import logging
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import Tensor

from siglip_med.core.errors import UserError
from siglip_med.core.files import write_json
from siglip_med.models.hub import explained, load_image_processor, resolve_path

logger = logging.getLogger(__name__)


def find_folder(path: str, revision: str | None, config: str, weights: Sequence[str], others: Sequence[str]) -> Path:
    """The folder of a model, downloaded if it is an id of the hub.

    Args:
        path: a folder, or an id of the hub.
        revision: commit, tag or branch of the hub.
        config: the file by which a folder is known to hold a model.
        weights: files that may hold its weights; a later one is downloaded only where the hub lacks those before.
        others: patterns of what else is downloaded.

    Raises:
        UserError: there is no such model, or it lacks its config or its weights.
    """
    folder = Path(resolve_path(path, config))
    if not folder.is_dir():
        with explained(path, revision):
            for file in weights:
                folder = Path(snapshot_download(path, revision=revision, allow_patterns=[*others, file]))
                if (folder / file).is_file():
                    break
    if not any((folder / file).is_file() for file in weights):
        raise UserError(f"{path}: holds neither {' nor '.join(weights)} (weights in other files are not read)")
    return folder


def read_tensors(folder: Path, weights: Sequence[str], name: str, wrapped: Sequence[str] = ()) -> dict[str, Tensor]:
    """Weights by the other library's names, in float32; a file of torch is read as tensors and runs nothing.

    Args:
        folder: from `find_folder`.
        weights: files that may hold them, of which the first that is there is read.
        name: of the model, for messages.
        wrapped: keys of a file of torch under which the weights may lie.

    Raises:
        UserError: the file is damaged, or holds something else.
    """
    file = next(folder / one for one in weights if (folder / one).is_file())
    found: Any
    if file.suffix == ".safetensors":
        with explained(name, None):
            found = load_file(file)
    else:
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]  # an empty file's error says nothing
            raise UserError(
                f"{file} is damaged, or holds more than tensors and was not loaded, since that could run code: {reason}"
            ) from error
        inner = [found[key] for key in wrapped if isinstance(found, dict) and isinstance(found.get(key), dict)]
        found = inner[0] if inner else found
        if not (isinstance(found, dict) and all(isinstance(value, Tensor) for value in found.values())):
            raise UserError(f"{file} holds something else than the weights of a model")
    return {key: value.float() for key, value in found.items()}


def name_unused(name: str, part: str, given: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Logs what a config says of images that they do not get here.

    Args:
        name: of the model.
        part: of its config, for the message.
        given: that part.
        ours: key -> the value that images get.
    """
    other = [f"{part}.{key}={given[key]}" for key, value in ours.items() if given.get(key) not in (None, value)]
    if other:
        logger.warning(
            "%s: %s not used: images become squares whole, bicubic, as everywhere here", name, ", ".join(other)
        )


def square_images(side: int, mean: Sequence[float], std: Sequence[float]) -> Any:
    """The library's image processor for images as this project makes them: squashed to a square, bicubic.

    Which class that is depends on what else is installed.

    Args:
        side: of the images, in pixels.
        mean: of the red, green and blue values, between 0 and 1.
        std: the same, what they are divided by.
    """
    size = {"height": side, "width": side}
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": size,
        "crop_size": size,
        "do_center_crop": False,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "preprocessor_config.json", settings)
        return load_image_processor(folder, None)
