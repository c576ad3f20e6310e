"""The way out: a trained model in the formats that the ecosystem uses."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siglip_med.core.errors import UserError
from siglip_med.core.files import whole_folder
from siglip_med.core.seals import write_sums
from siglip_med.export.card import model_card
from siglip_med.export.onnx_towers import write_onnx
from siglip_med.export.open_clip import write_open_clip
from siglip_med.export.pretrained import save_weights, write_adapter, write_merged
from siglip_med.export.recipes import Format
from siglip_med.models import Refit, TwoTower, family_of, load_model, read_refit
from siglip_med.models.exported import ABOUT_FILE
from siglip_med.models.reading import reading
from siglip_med.models.refit import REFIT_FILE

__all__ = [
    "Format",
    "export_checkpoint",
    "model_card",
    "write_adapter",
    "write_merged",
    "write_onnx",
    "write_open_clip",
]


_WRITERS = {"peft": write_adapter, "merged": write_merged, "open_clip": write_open_clip}


def export_checkpoint(
    checkpoint: str | Path,
    format: Format,
    output: str | Path,
    license: str = "other",
    base: str | Mapping[str, str] | None = None,
    trust: Sequence[str] = (),
) -> Path:
    """Writes a checkpoint's model, with a card, as PEFT adapter, merged Hugging Face folder, ONNX or open_clip folder.

    A refit comes along: inside ``vision.onnx`` as an output, else as ``refit.safetensors`` with lines in the card.

    Args:
        checkpoint: a checkpoint of a fine-tuning run.
        format: ``peft``, ``merged``, ``onnx``, or ``open_clip`` for CLIP models.
        output: a folder that does not exist yet; it appears whole or not at all.
        license: of the exported files, for the card.
        base: path of the base if it moved, as in `load_model`.
        trust: code of one's own that the checkpoint may build, as in `load_model`.

    Returns:
        The folder.

    Raises:
        UserError: the folder exists, the checkpoint cannot be read, or the model has no such format.
    """
    output = Path(output)
    if output.exists():
        raise UserError(f"output={output} exists: give a new folder, or remove it first")
    model, payload = load_model(checkpoint, base, trust)
    refit = read_refit(payload.get("refit"), len(payload["conditions"]), str(checkpoint))
    with whole_folder(output) as folder:
        if format == "onnx":
            write_onnx(model, folder, refit)
        else:
            _WRITERS[format](model, folder)
            if refit is not None:
                save_weights(refit.state_dict(), folder / REFIT_FILE)
        (folder / ABOUT_FILE).write_text(json.dumps(_about(model, payload, refit), indent=2), encoding="utf-8")
        (folder / "README.md").write_text(model_card(model, payload, format, license), encoding="utf-8")
        write_sums(folder)
    return output


def _about(model: TwoTower, payload: Mapping[str, Any], refit: Refit | None) -> dict[str, Any]:
    """What a program needs beside the weights to turn images into named conditions."""
    return {
        "conditions": payload["conditions"],
        "codes": payload["codes"],
        "prompts": payload["prompts"],
        "logit_scale": model.logit_scale.exp().item(),
        "logit_bias": model.logit_bias.item(),
        "calibration": payload["calibration"],
        "refit": None if refit is None else refit.about,
        "familiarity": payload.get("familiarity"),
        "provenance": payload.get("provenance"),
        "image": {"size": model.image_spec.size, "mean": model.image_spec.mean, "std": model.image_spec.std},
        "image_bits": model.image_spec.bits,
        "reading": reading(model, payload["prompts"]),
        "max_text_length": model.max_text_length,
        "model": family_of(model),
    }
