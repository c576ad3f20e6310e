"""Fine-tunes a model against conditions: zero-shot first, then training, then the same numbers again."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig
from torch import Tensor

from siglip_med.config import instantiate
from siglip_med.evaluation import RetrievalMetrics, fit_calibration
from siglip_med.evaluation.tensorboard import custom_scalar_layout, write_dashboards
from siglip_med.models import finalise_checkpoint, load_trained, read_trained
from siglip_med.training.module import FineTuneModule
from siglip_med.training.parts import Parts, build_parts, flat_config
from siglip_med.training.summary import RunSummary, Stage
from siglip_med.training.texts import PromptEnsemble, PromptPool


def finetune(config: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Runs the whole job and leaves its results in the run folder.

    Returns:
        Metrics named ``<stage>/<split>/<metric>`` (stage ``zero_shot``, ``tuned``, ``label_frequency`` or ``chance``)
        beside those of the last epoch; and the objects that were built, by name.
    """
    folder = Path(config.paths.output_dir)
    trainer: pl.Trainer = instantiate(config.trainer, callbacks=config.callbacks, logger=config.logger)
    device = trainer.strategy.root_device
    parts = build_parts(config, device)
    start = _weights_to_start_from(config, parts)
    module = build_module(config, parts)
    if trainer.is_global_zero:
        parts.model.print_summary()
        _save_split(parts, folder)
    before = Stage(parts.predict("val"), parts.predict("test"))
    parts.model.load_trainable_state(start, partial=True)  # only now: zero-shot is the base as it was pretrained
    trainer.fit(module, datamodule=parts.datamodule, ckpt_path=config.resume, weights_only=True)
    best = _load_best(trainer, parts)
    parts.model.to(device)  # Lightning left it on the CPU
    after = Stage(parts.predict("val"), parts.predict("test"))
    summary = RunSummary(before, after, config.evaluation.bootstrap, config.evaluation.coverage, config.seed)
    if trainer.is_global_zero:
        _save_results(trainer, config, summary, after, before, folder, best)
        summary.print(folder, best)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if torch.is_tensor(value)}
    objects = {"parts": parts, "module": module, "trainer": trainer, "before": before, "after": after}
    return metrics | summary.metrics(), objects


def build_module(config: DictConfig, parts: Parts) -> FineTuneModule:
    """The LightningModule of a fine-tuning run."""
    frame = parts.datamodule.table.frame
    dissimilarity = torch.from_numpy(parts.dissimilarity).float()
    module = FineTuneModule(
        parts.model,
        instantiate(config.loss),
        instantiate(config.optimizer),
        PromptPool(parts.training_prompts, parts.model.tokenize, config.text_pool, config.seed),
        PromptEnsemble(parts.evaluation_prompts, parts.model.tokenize),
        dissimilarity=dissimilarity,
        condition_counts=torch.as_tensor(parts.datamodule.train_counts),
        primary=torch.tensor(frame["primary"].to_numpy(copy=True)),
        metrics=RetrievalMetrics(dissimilarity, parts.conditions.chapters, parts.conditions.blocks),
        seed=config.seed,
    )
    module.checkpoint_payload = parts.payload()
    return module


def _weights_to_start_from(config: DictConfig, parts: Parts) -> dict[str, Tensor]:
    """The trained weights of ``init_from``; none without it.

    Raises:
        UserError: it has another base or trained what this run does not, or this run would be tested on images that
            it was trained on.
    """
    if config.init_from is None:
        return {}
    weights, payload = read_trained(parts.model, config.init_from, partial=True)
    parts.check_split(payload["split_hash"], Path(config.init_from))
    return weights


def _save_split(parts: Parts, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    split = parts.datamodule.split
    split.save(folder / "split.csv")
    split.report(parts.datamodule.table).save(folder / "split_report.json")
    if parts.datamodule.bad_images:
        parts.datamodule.save_bad_images(folder / "bad_images.csv")


def _load_best(trainer: pl.Trainer, parts: Parts) -> Path | None:
    """Reloads the checkpoint that validation chose; None where a run keeps no checkpoint."""
    callback = trainer.checkpoint_callback
    kept = callback.best_model_path if isinstance(callback, ModelCheckpoint) else ""
    best = Path(kept) if kept else None
    if best is not None:
        trainer.strategy.barrier("best checkpoint written")
        load_trained(parts.model, best)
    return best


def _save_results(
    trainer: pl.Trainer,
    config: DictConfig,
    summary: RunSummary,
    after: Stage,
    before: Stage,
    folder: Path,
    best: Path | None,
) -> None:
    for name, predictions in {
        "val": after.val,
        "test": after.test,
        "zero_shot_val": before.val,
        "zero_shot_test": before.test,
    }.items():
        predictions.save(folder / "predictions" / name)
    summary.save(folder / "metrics.json", config.name, config.seed)
    if best is not None:
        calibration = fit_calibration(after.val)
        finalise_checkpoint(
            best,
            metrics=summary.for_model_card(),
            calibration={"temperature": calibration.temperature, "bias": calibration.bias},
        )
    for logger in trainer.loggers:
        headline = {f"hp/{name}": summary.metrics()[f"tuned/{name}"] for name in ("val/r_at_5", "test/r_at_5")}
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(flat_config(config), metrics=headline)
            logger.experiment.add_custom_scalars(custom_scalar_layout())
            write_dashboards(logger.experiment, after.test, global_step=trainer.global_step)
        else:
            logger.log_hyperparams(flat_config(config))
            logger.log_metrics(headline, step=trainer.global_step)
        logger.finalize("success")
