"""Models that open_clip, timm or PanDerm's authors wrote, converted once into folders that transformers reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siglip_med.core.errors import UserError
from siglip_med.core.files import whole_folder, write_json
from siglip_med.core.shell import setting
from siglip_med.models.conversion.open_clip import read_open_clip
from siglip_med.models.conversion.timm import read_timm
from siglip_med.models.conversion.weights import OPEN_CLIP_CONFIG, TIMM_CONFIG, Converted, find_source

__all__ = ["Conversion", "convert"]


@dataclass(frozen=True)
class Conversion:
    """A folder that was written, and the settings by which ``train.py`` reads it, as one types them."""

    folder: Path
    settings: str


def convert(source: str, output: str | Path, revision: str | None = None) -> Conversion:
    """Writes a model of another library as a folder that transformers reads: config, weights, images, tokenizer.

    Args:
        source: a folder or hub id in the format of open_clip (``open_clip_config.json``) or of timm (a
            ``config.json`` with an ``architecture``).
        output: a folder that does not exist yet; it appears whole or not at all.
        revision: commit, tag or branch of the hub; None is the main branch.

    Raises:
        UserError: the output exists, the source is not available or is damaged, or it is a model whose arithmetic
            transformers' layers do not have.
    """
    output = Path(output)
    if output.exists():
        raise UserError(f"output={output} exists: give a new folder, or remove it first")
    folder = find_source(source, revision)
    theirs = (folder / OPEN_CLIP_CONFIG).is_file()
    try:
        found = (read_open_clip if theirs else read_timm)(folder)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        config = folder / (OPEN_CLIP_CONFIG if theirs else TIMM_CONFIG)
        raise UserError(f"{config}, or the weights beside it, are damaged: {' '.join(repr(error).split())}") from error
    if min(found.std) <= 0:
        raise UserError(f"{source}: std={found.std}: three positive numbers are needed, as its training had them")
    with whole_folder(output) as place:
        found.model.save_pretrained(place)
        write_json(place / "preprocessor_config.json", _images(found))
        if found.tokenizer is not None:
            found.tokenizer.save_pretrained(place)
    words = [setting(found.key, output.resolve()), *found.settings]
    return Conversion(output, " ".join(words))


def _images(found: Converted) -> dict[str, Any]:
    """The image processor's settings: the whole image squashed to a square, bicubic, as everywhere here."""
    config: Any = found.model.config
    side = getattr(config, "vision_config", config).image_size
    size = {"height": side, "width": side}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": size,
        "crop_size": size,
        "do_center_crop": False,
        "image_mean": list(found.mean),
        "image_std": list(found.std),
    }
