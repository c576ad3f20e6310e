"""``python -m siglip_med.export checkpoint=… format=peft|merged|onnx output=…``."""

import logging
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from siglip_med.cli import check_command_line, entry_point
from siglip_med.config import validate_config

_CONFIG = Path(__file__).resolve().parents[2] / "conf"


@hydra.main(version_base="1.3", config_path=str(_CONFIG), config_name="export")
@entry_point
def main(config: DictConfig) -> None:
    """Exports the checkpoint that the config names."""
    from siglip_med.export import ExportSettings, export_checkpoint

    validate_config(config, ExportSettings)
    settings = ExportSettings.model_validate(OmegaConf.to_container(config, resolve=True))

    # The exporter warns of torchvision operators that these models do not have.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    folder = export_checkpoint(settings.checkpoint, settings.format, settings.output, settings.licence, settings.base)
    Console().print(f"wrote {folder}; README.md in it is the model card", soft_wrap=True)


if __name__ == "__main__":
    check_command_line(_CONFIG, "export")
    main()
