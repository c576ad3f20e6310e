"""Reports on a run: ``python evaluate.py checkpoint=…``; compares two: ``python evaluate.py compare=[runA,runB]``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from siglip_med.cli import check_command_line, entry_point

if TYPE_CHECKING:
    from siglip_med.evaluation import Predictions


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@entry_point
def main(config: DictConfig) -> None:
    """Writes the report or the comparison that the config asks for."""
    from siglip_med.evaluation.run import RunAccess, run

    run(config, RunAccess(_payload, _predict, _image_root))


def _payload(checkpoint: Path) -> Mapping[str, Any]:
    from siglip_med.models import read_checkpoint

    payload: Mapping[str, Any] = read_checkpoint(checkpoint)["siglip_med"]
    return payload


def _predict(checkpoint: Path, data: dict[str, object]) -> "Mapping[str, Predictions]":
    from siglip_med.training.restore import predict_run

    return predict_run(checkpoint, data)


def _image_root(checkpoint: Path, data: dict[str, object]) -> Path:
    from siglip_med.training.restore import restore_parts

    return restore_parts(checkpoint, data).datamodule.table.root


if __name__ == "__main__":
    check_command_line(Path(__file__).parent / "conf", "evaluate")
    main()
