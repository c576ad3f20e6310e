"""The way out: a trained model in the formats that the ecosystem uses."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siglip_med.core.errors import UserError
from siglip_med.core.files import whole_folder
from siglip_med.core.seals import write_sums
from siglip_med.export.card import model_card
from siglip_med.export.example import local_bases
from siglip_med.export.hub import check_repository, push
from siglip_med.export.onnx_towers import write_onnx
from siglip_med.export.open_clip import write_open_clip
from siglip_med.export.pretrained import write_adapter, write_merged
from siglip_med.export.recipes import Format
from siglip_med.models import TwoTower, family_of, load_model
from siglip_med.models.exported import ABOUT_FILE

__all__ = [
    "Format",
    "export_checkpoint",
    "model_card",
    "push",
    "write_adapter",
    "write_merged",
    "write_onnx",
    "write_open_clip",
]


_WRITERS = {"peft": write_adapter, "merged": write_merged, "onnx": write_onnx, "open_clip": write_open_clip}


def export_checkpoint(
    checkpoint: str | Path,
    format: Format,
    output: str | Path,
    license: str = "other",
    base: str | Mapping[str, str] | None = None,
    push_to_hub: str | None = None,
    private: bool = True,
    trust: Sequence[str] = (),
) -> Path:
    """Writes a checkpoint's model, with a card, as PEFT adapter, merged Hugging Face folder, ONNX or open_clip folder.

    Args:
        checkpoint: a checkpoint of a fine-tuning run.
        format: ``peft``, ``merged``, ``onnx``, or ``open_clip`` for CLIP models.
        output: a folder that does not exist yet; it appears whole or not at all.
        license: of the exported files, for the card.
        base: where the base lies now, as in `load_model`.
        push_to_hub: ``ORG/NAME`` of a repository on the Hugging Face hub that the folder is uploaded to; None: nothing
            leaves this machine.
        private: whether that repository is to be seen by its owners alone.
        trust: code of one's own that the checkpoint may build, as in `load_model`.

    Returns:
        The folder.

    Raises:
        UserError: the folder exists, the checkpoint cannot be read, the model has no such format, or it cannot be
            pushed; see `push`.
    """
    output = Path(output)
    if push_to_hub is not None:
        check_repository(push_to_hub)
    if output.exists():
        raise UserError(f"output={output} exists: give a new folder, or remove it first")
    model, payload = load_model(checkpoint, base, trust)
    if push_to_hub is not None and format == "peft" and (unknown := local_bases(model)):
        raise UserError(
            f"push_to_hub: the adapters belong to {Path(unknown[0]).name}, a folder of this machine that nobody else "
            "has: push format=merged"
        )
    with whole_folder(output) as folder:
        _WRITERS[format](model, folder)
        (folder / ABOUT_FILE).write_text(json.dumps(_about(model, payload), indent=2), encoding="utf-8")
        (folder / "README.md").write_text(model_card(model, payload, format, license), encoding="utf-8")
        write_sums(folder)
    if push_to_hub is not None:
        push(output, push_to_hub, private)
    return output


def _about(model: TwoTower, payload: Mapping[str, Any]) -> dict[str, Any]:
    """What a program needs beside the weights to turn images into named conditions."""
    return {
        "conditions": payload["conditions"],
        "codes": payload["codes"],
        "prompts": payload["prompts"],
        "logit_scale": model.logit_scale.exp().item(),
        "logit_bias": model.logit_bias.item(),
        "calibration": payload["calibration"],
        "image": {"size": model.image_spec.size, "mean": model.image_spec.mean, "std": model.image_spec.std},
        "max_text_length": model.max_text_length,
        "model": family_of(model),
    }
