"""What a run writes into its folder: split, predictions and metrics, and the checkpoint that they come from."""

import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

from siglip_med.core.config import flat
from siglip_med.core.errors import UserError
from siglip_med.core.seals import write_sidecar
from siglip_med.data.splitting.look_alikes import LOOK_ALIKES, SplitLookAlikes
from siglip_med.metrics import CHOOSING, fit_calibration, write_per_image
from siglip_med.models import Familiarity, Refit, finalize_checkpoint, read_trained, write_checkpoint
from siglip_med.report.data_card import write_data_card
from siglip_med.report.evidence import BESIDE, PROMPTS, PROMPTS_VAL
from siglip_med.report.page import plain
from siglip_med.report.summary import RunSummary
from siglip_med.runs.components import Components
from siglip_med.runs.session import checkpoints_of
from siglip_med.runs.settings import FineTuneSettings
from siglip_med.training.checkpointing import BEST
from siglip_med.training.module import FineTuneModule


def save_split(components: Components, folder: Path) -> None:
    """Writes which image went where, and which were left out."""
    data = components.data
    folder.mkdir(parents=True, exist_ok=True)
    data.split.save(folder / "split.csv")
    write_sidecar(folder / "split.csv")
    components.split_report.save(folder / "split_report.json")
    write_data_card(components.split_report, folder)
    data.save_bad_images(folder / "bad_images.csv")


def save_look_alikes(components: Components, found: SplitLookAlikes, folder: Path) -> None:
    """Writes which images look alike across splits, and says in the data card how many."""
    found.save(folder / LOOK_ALIKES)
    write_data_card(components.split_report, folder, found.sentence())


def load_best(trainer: pl.Trainer, components: Components) -> Path | None:
    """Reloads the checkpoint that validation chose; None where a run keeps no checkpoint.

    Raises:
        UserError: the run was to keep one, and no validation chose any.
    """
    checkpoints = checkpoints_of(trainer)
    if checkpoints is None:
        return None
    if not checkpoints.best_model_path:
        raise UserError(
            "the run ended without a validation, so no checkpoint was chosen: lower trainer.val_check_interval"
        )
    trainer.strategy.barrier("best checkpoint written")
    best = Path(checkpoints.best_model_path)
    components.model.load_trainable_state(read_trained(components.model, best)[0])
    return best


def save_untrained(trainer: pl.Trainer, module: FineTuneModule) -> Path | None:
    """The checkpoint of a run that does not train, for the other commands; None where a run keeps none."""
    checkpoints = checkpoints_of(trainer)
    if checkpoints is None:
        return None
    path = checkpoints.folder / BEST
    if trainer.is_global_zero:
        checkpoints.folder.mkdir(parents=True, exist_ok=True)
        state = {f"model.{name}": value for name, value in module.model.trainable_state().items()}
        write_checkpoint({"global_step": 0, "state_dict": state, "siglip_med": module.checkpoint_payload}, path)
    return path


def save_results(
    settings: FineTuneSettings,
    trainer: pl.Trainer,
    summary: RunSummary,
    best: Path | None,
    refit: Refit | None,
    familiarity: Familiarity,
) -> None:
    """Writes predictions, metrics.json, the dashboards, and the results inside the best checkpoint."""
    # Only now: it draws, and a run should not wait for matplotlib before its first step.
    from siglip_med.report.tensorboard import custom_scalar_layout, write_dashboards

    save_scores(Path(settings.paths.output_dir), summary, settings.name, settings.seed, best, refit, familiarity)
    hyperparameters: dict[str, Any] = flat(settings, left_out=("paths", "callbacks", "logger"))
    results = summary.metrics()
    shown = dict.fromkeys((CHOOSING, "r_at_1", "r_at_5", "icd_distance_all"))
    headline = {f"hp/{split}/{name}": results[f"tuned/{split}/{name}"] for name in shown for split in ("val", "test")}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(hyperparameters, metrics=headline)
            logger.experiment.add_custom_scalars(custom_scalar_layout())
            write_dashboards(logger.experiment, summary.tuned.test, global_step=trainer.global_step)
        else:
            logger.log_hyperparams(hyperparameters)
            logger.log_metrics(headline, step=trainer.global_step)
        logger.finalize("success")


def save_scores(
    folder: Path,
    summary: RunSummary,
    name: str,
    seed: int,
    checkpoint: Path | None,
    refit: Refit | None = None,
    familiarity: Familiarity | None = None,
) -> None:
    """Writes predictions and metrics.json of a run, and the results inside its checkpoint.

    Args:
        folder: of the run.
        summary: its numbers.
        name: of the experiment.
        seed: of the run.
        checkpoint: the one that gave the numbers, or None.
        refit: what answered, or None: the prompts did.
        familiarity: of photographs to the model.
    """
    for part, predictions in {
        "val": summary.tuned.val,
        "test": summary.tuned.test,
        "zero_shot_val": summary.zero_shot.val,
        "zero_shot_test": summary.zero_shot.test,
    }.items():
        predictions.save(folder / "predictions" / part)
        write_per_image(predictions, folder / "predictions" / part)
    if summary.prompts is not None:
        summary.prompts.val.save(folder / "predictions" / PROMPTS_VAL)
    else:  # those of a refit that a resumed run no longer has go
        for part in (BESIDE[PROMPTS], PROMPTS_VAL):
            shutil.rmtree(folder / "predictions" / part, ignore_errors=True)
    for baseline, beside in summary.beside.items():
        beside.test.save(folder / "predictions" / BESIDE[baseline])
    summary.save(folder / "metrics.json", name, seed)
    if checkpoint is not None:
        calibration = fit_calibration((summary.prompts or summary.tuned).val)  # a refit's is inside it
        finalize_checkpoint(
            checkpoint,
            refit,
            familiarity,
            metrics=summary.for_model_card(),
            test_size=summary.tuned.test.size,
            baselines=summary.baselines_for_model_card(),
            own_metrics=plain(summary.own),
            look_alikes=summary.look_alikes,
            calibration={"temperature": calibration.temperature, "bias": calibration.bias},
        )
