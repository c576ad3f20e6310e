"""Writes a model of open_clip, timm or PanDerm's authors as a folder that transformers, and ``train.py``, reads."""

from pydantic import BaseModel, ConfigDict

from siglip_med.core.outside import Console
from siglip_med.core.shell import other_command
from siglip_med.models.conversion import Conversion, convert


class Settings(BaseModel):
    """Top level of ``conf/convert.yaml``; the meanings are those of `siglip_med.models.conversion.convert`."""

    model_config = ConfigDict(extra="forbid")

    source: str
    output: str
    revision: str | None


def run(settings: Settings) -> Conversion:
    """Converts the model.

    Raises:
        UserError: as `siglip_med.models.conversion.convert`.
    """
    return convert(**settings.model_dump())


def show(result: Conversion) -> None:
    """Prints the folder, and the command that trains it."""
    command = f"{other_command('train')} {result.settings}"
    Console().print(f"wrote {result.folder}; train it with\n{command}", soft_wrap=True)
