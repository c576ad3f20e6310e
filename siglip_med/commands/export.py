"""Writes a checkpoint's model in a format that other software loads, with a model card."""

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from siglip_med.core.outside import Console
from siglip_med.export import Format, export_checkpoint


class Settings(BaseModel):
    """Top level of ``conf/export.yaml``; the meanings are those of `export_checkpoint`."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str
    format: Format
    output: str
    license: str
    base: str | dict[str, str] | None
    trust: list[str] = []


def run(settings: Settings) -> Path:
    """Exports the checkpoint and returns the folder.

    Raises:
        UserError: the folder exists, the checkpoint cannot be read, or the model has no such format.
    """
    # The exporter warns of torchvision operators that these models do not have.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    return export_checkpoint(**settings.model_dump())


def show(folder: Path) -> None:
    """Says where the folder is."""
    Console().print(f"wrote {folder}; README.md in it is the model card", soft_wrap=True)
