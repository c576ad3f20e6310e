"""A finished run, rebuilt from its checkpoint."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from siglip_med.config import instantiate
from siglip_med.evaluation import Predictions
from siglip_med.models import load_model, read_checkpoint
from siglip_med.training.parts import Parts, build_parts


def payload_of(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of its run: config, base, conditions, codes, prompts, split hash, metrics, calibration."""
    payload: dict[str, Any] = read_checkpoint(checkpoint)["siglip_med"]
    return payload


def run_config(checkpoint: Path, data: dict[str, object] | None = None) -> DictConfig:
    """The config that a checkpoint was trained with.

    Args:
        checkpoint: a checkpoint of a fine-tuning run.
        data: keys of its ``data`` config to replace, e.g. ``{"source": {"root": "…"}}`` on another machine.
    """
    config = OmegaConf.merge(payload_of(checkpoint)["config"], {"data": data or {}})
    assert isinstance(config, DictConfig)
    return config


def restore_parts(checkpoint: Path, data: dict[str, object] | None = None) -> Parts:
    """The model of a checkpoint with the data that it was trained on.

    Raises:
        UserError: the checkpoint, its base or its data cannot be had, or the split is no longer the one it trained on.
    """
    model, payload = load_model(checkpoint)
    parts = build_parts(run_config(checkpoint, data), model)
    parts.check_split(payload["split_hash"], checkpoint)
    return parts


def predict_run(checkpoint: Path, data: dict[str, object] | None = None) -> dict[str, Predictions]:
    """Validation and test predictions of a checkpoint, and the zero-shot ones of its base.

    Returns:
        Predictions named as in a run folder: ``val``, ``test``, ``zero_shot_val``, ``zero_shot_test``.
    """
    tuned = restore_parts(checkpoint, data)
    base = build_parts(run_config(checkpoint, data))
    return {split: tuned.predict(split) for split in ("val", "test")} | {
        f"zero_shot_{split}": base.predict(split) for split in ("val", "test")
    }


def image_root(checkpoint: Path, data: dict[str, object] | None = None) -> Path:
    """The folder that the image paths of a run's table are relative to."""
    source = instantiate(run_config(checkpoint, data).data.source)
    source.prepare()
    return Path(source.load().root)
