"""Ranks conditions for photographs: ``python predict.py checkpoint=… images=folder``."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from siglip_med.cli import check_command_line, entry_point
from siglip_med.config import validate_config


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
@entry_point
def main(config: DictConfig) -> None:
    """Prints a table, and writes predictions.csv and predictions.json."""
    from rich.console import Console

    from siglip_med.predict import PredictSettings, predict_checkpoint

    validate_config(config, PredictSettings)
    settings = PredictSettings.model_validate(OmegaConf.to_container(config, resolve=True))
    run = predict_checkpoint(
        settings.checkpoint,
        settings.images,
        settings.top_k,
        settings.batch_size,
        settings.device,
        settings.base,
    )
    table, tree = run.save(Path(settings.output_dir))
    console = Console()
    console.print(run.table())
    if not run.calibrated:
        console.print("The checkpoint holds no calibration: read the scores as an order, not as probabilities.")
    for _, reason in run.unreadable:
        console.print(f"could not read {reason}", soft_wrap=True, highlight=False)
    console.print(f"wrote {table} and {tree}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    check_command_line(Path(__file__).parent / "conf", "predict")
    main()
