"""Writes a checkpoint's model in a format that other software loads, with a model card."""

import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.console import Console

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
    push_to_hub: str | None
    private: bool


@dataclass(frozen=True)
class Result:
    """The folder, and the repository on the hub that it was pushed to, if any."""

    folder: Path
    pushed_to: str | None


def run(settings: Settings) -> Result:
    """Exports the checkpoint and returns the folder.

    Raises:
        UserError: the folder exists, the checkpoint cannot be read, or the model has no such format, or it cannot
            be pushed.
    """
    # The exporter warns of torchvision operators that these models do not have.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    folder = export_checkpoint(**settings.model_dump())
    return Result(folder, settings.push_to_hub)


def show(result: Result) -> None:
    """Says where the folder is, and whether it has left this machine."""
    console = Console()
    console.print(f"wrote {result.folder}; README.md in it is the model card", soft_wrap=True, markup=False)
    if result.pushed_to is not None:
        console.print(f"pushed to https://huggingface.co/{result.pushed_to}", soft_wrap=True, markup=False)
