"""A finished run, rebuilt from its checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from siglip_med.config import instantiate
from siglip_med.evaluation import Predictions
from siglip_med.models import Device, choose_device, load_model, model_node, read_checkpoint
from siglip_med.training.parts import build_parts


def payload_of(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of its run: config, base, conditions, codes, prompts, split hash, metrics, calibration."""
    payload: dict[str, Any] = read_checkpoint(checkpoint)["siglip_med"]
    return payload


def run_config(
    checkpoint: Path, data: Mapping[str, object] | None = None, base: str | Mapping[str, str] | None = None
) -> DictConfig:
    """The config that a checkpoint was trained with.

    Args:
        checkpoint: a checkpoint of a fine-tuning run.
        data: keys of its ``data`` config to replace, e.g. ``{"source": {"root": "…"}}`` on another machine.
        base: where the base lies now, as in `load_model`.
    """
    payload = payload_of(checkpoint)
    replaced = {"data": dict(data or {}), "model": model_node(payload, checkpoint, base)}
    config = OmegaConf.merge(payload["config"], replaced)
    assert isinstance(config, DictConfig)
    return config


def predict_run(
    checkpoint: Path,
    data: Mapping[str, object] | None = None,
    base: str | Mapping[str, str] | None = None,
    device: Device = "auto",
) -> dict[str, Predictions]:
    """Validation and test predictions of a checkpoint, and the zero-shot ones of its base.

    Args:
        checkpoint: a checkpoint of a fine-tuning run.
        data: as in `run_config`.
        base: as in `run_config`.
        device: where the model runs.

    Returns:
        Predictions named as in a run folder: ``val``, ``test``, ``zero_shot_val``, ``zero_shot_test``.

    Raises:
        UserError: the checkpoint, its base, its data or the device cannot be had, or the split is no longer the one it
            trained on.
    """
    config, chosen = run_config(checkpoint, data, base), choose_device(device)
    model, payload = load_model(checkpoint, base)
    tuned = build_parts(config, chosen, model)
    tuned.check_split(payload["split_hash"], checkpoint)
    untrained = build_parts(config, chosen)
    return {split: tuned.predict(split) for split in ("val", "test")} | {
        f"zero_shot_{split}": untrained.predict(split) for split in ("val", "test")
    }


def image_root(checkpoint: Path, data: Mapping[str, object] | None = None) -> Path:
    """The folder that the image paths of a run's table are relative to."""
    source = instantiate(run_config(checkpoint, data).data.source)
    source.prepare()
    return Path(source.load().root)
