"""Trains a small base on image–caption pairs, from nothing."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig
from rich.console import Console

from siglip_med.config import instantiate
from siglip_med.models import checkpoint_payload
from siglip_med.models.tiny import write_pretrained, write_untrained
from siglip_med.training.module import CaptionModule
from siglip_med.training.parts import build_data, plain_config
from siglip_med.training.texts import CaptionPool


def pretrain(config: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Trains both towers on captions and, if asked, writes the model folder.

    Returns:
        The last validation metrics, and the objects that were built.
    """
    pl.seed_everything(config.seed, workers=True, verbose=False)
    write_untrained(Path(config.model.path), config.seed)
    model = instantiate(config.model)
    datamodule = build_data(config, model)
    captions = CaptionPool(datamodule.table.frame["description"].tolist(), model.tokenize)
    module = CaptionModule(model, instantiate(config.loss), instantiate(config.optimizer), captions, config.seed)
    module.checkpoint_payload = checkpoint_payload(
        model,
        config=plain_config(config),
        conditions=datamodule.conditions,
        codes=(),
        prompts=(),
        split_hash=datamodule.split.hash,
    )
    trainer = instantiate(config.trainer, callbacks=config.callbacks, logger=config.logger)
    trainer.fit(module, datamodule=datamodule, ckpt_path=config.resume, weights_only=True)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if torch.is_tensor(value)}
    if config.export_to is not None and trainer.is_global_zero and not trainer.fast_dev_run:
        write_pretrained(model, Path(config.export_to))
        Console().print(f"wrote the base to {config.export_to}")
    return metrics, {"model": model, "datamodule": datamodule, "module": module, "trainer": trainer}
