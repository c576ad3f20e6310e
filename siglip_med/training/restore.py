"""A finished run, rebuilt from its checkpoint."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from siglip_med.evaluation import Predictions
from siglip_med.models import load_model
from siglip_med.training.parts import Parts, build_parts, plain_config


def restore_parts(checkpoint: Path, data: dict[str, object] | None = None) -> Parts:
    """The model of a checkpoint with the data that it was trained on.

    Args:
        checkpoint: a checkpoint of a fine-tuning run.
        data: keys of the run's ``data`` config to replace, e.g. ``{"source": {"root": "…"}}`` on another machine.

    Raises:
        UserError: the checkpoint, its base or its data cannot be had, or the split is no longer the one it trained on.
    """
    model, payload = load_model(checkpoint)
    config = OmegaConf.create(payload["config"])
    assert isinstance(config, DictConfig)
    if data:
        config = OmegaConf.merge(config, {"data": data})
        assert isinstance(config, DictConfig)
    parts = build_parts(config, model)
    parts.check_split(payload["split_hash"], checkpoint)
    return parts


def predict_run(checkpoint: Path, data: dict[str, object] | None = None) -> dict[str, Predictions]:
    """Validation and test predictions of a checkpoint, and the zero-shot ones of its base.

    Returns:
        Predictions named as in a run folder: ``val``, ``test``, ``zero_shot_val``, ``zero_shot_test``.
    """
    parts = restore_parts(checkpoint, data)
    tuned = {split: parts.predict(split) for split in ("val", "test")}
    base = build_parts(OmegaConf.create(plain_config(parts.config)))
    return tuned | {f"zero_shot_{split}": base.predict(split) for split in ("val", "test")}
