"""Reports on a run: ``python evaluate.py checkpoint=…``; compares two: ``python evaluate.py compare=[runA,runB]``."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from siglip_med.cli import check_command_line, entry_point


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@entry_point
def main(config: DictConfig) -> None:
    """Writes the report or the comparison that the config asks for."""
    from siglip_med.evaluation.run import RunAccess, run
    from siglip_med.training.restore import image_root, payload_of, predict_run

    run(config, RunAccess(payload_of, predict_run, image_root))


if __name__ == "__main__":
    check_command_line(Path(__file__).parent / "conf", "evaluate")
    main()
