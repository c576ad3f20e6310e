"""Trains: ``python train.py experiment=layered``; ``python train.py -m experiment=layered,baseline seed=0,1,2``."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from siglip_med.cli import check_command_line, entry_point


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@entry_point
def main(config: DictConfig) -> float | None:
    """Runs the job that the config describes and returns the metric that a sweep optimises."""
    from siglip_med.training.run import optimized_metric, run

    metrics, _ = run(config)
    return optimized_metric(metrics, config.optimized_metric)


if __name__ == "__main__":
    check_command_line(Path(__file__).parent / "conf", "train")
    main()
