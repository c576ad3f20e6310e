"""Fine-tunes a model against conditions: zero-shot first, then training, then the same numbers again."""

import json
from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
import torch
from omegaconf import DictConfig

from siglip_med.evaluation import (
    Predictions,
    RetrievalMetrics,
    fit_calibration,
    headline_metrics,
)
from siglip_med.models import finalise_checkpoint, load_trained
from siglip_med.training.module import FineTuneModule
from siglip_med.training.parts import Parts, build_parts, plain_config
from siglip_med.training.summary import RunSummary
from siglip_med.training.texts import PromptPool


def build_module(config: DictConfig, parts: Parts) -> FineTuneModule:
    """The LightningModule of a fine-tuning run."""
    table = parts.datamodule.table
    module = FineTuneModule(
        parts.model,
        hydra.utils.instantiate(config.loss),
        hydra.utils.instantiate(config.optimizer),
        PromptPool(parts.training_prompts, parts.model.tokenize, config.text_pool, config.seed),
        parts.evaluation_prompts,
        dissimilarity=torch.from_numpy(parts.dissimilarity),
        condition_counts=torch.as_tensor(parts.datamodule.train_counts),
        primary=torch.tensor(table.frame["primary"].to_numpy(copy=True)),
        metrics=RetrievalMetrics(torch.from_numpy(parts.dissimilarity), parts.conditions),
    )
    module.checkpoint_payload = parts.payload(plain_config(config))
    return module


def finetune(config: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Runs the whole job and leaves its results in the run folder.

    Returns:
        Metrics named ``<stage>/<split>/<metric>`` with stage ``zero_shot`` or ``tuned``; and the objects.
    """
    folder = Path(config.paths.output_dir)
    parts = build_parts(config)
    module = build_module(config, parts)
    trainer: pl.Trainer = hydra.utils.instantiate(config.trainer, callbacks=config.callbacks, logger=config.logger)
    before = {split: parts.predict(split) for split in ("val", "test")}
    if trainer.is_global_zero:
        _save_split(parts, folder)
        parts.model.print_summary()
    trainer.fit(module, datamodule=parts.datamodule, ckpt_path=config.resume)
    best = trainer.checkpoint_callback.best_model_path if trainer.checkpoint_callback else ""
    if best:
        load_trained(parts.model, Path(best))
    after = {split: parts.predict(split) for split in ("val", "test")}
    summary = RunSummary(config, before, after)
    if trainer.is_global_zero:
        _save_results(trainer, parts, config, summary, Path(best) if best else None, folder)
    metrics = summary.metrics() | {
        name: float(value) for name, value in trainer.callback_metrics.items() if torch.is_tensor(value)
    }
    return metrics, {"parts": parts, "module": module, "trainer": trainer, "before": before, "after": after}


def _save_split(parts: Parts, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts.datamodule.split.save(folder / "split.csv")
    parts.datamodule.split.report(parts.datamodule.table).save(folder / "split_report.json")
