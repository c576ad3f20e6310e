"""Which base model a checkpoint belongs to."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import nn

_HYPERPARAMETERS = (
    "model_type", "hidden_act", "layer_norm_eps", "num_attention_heads", "image_size", "patch_size",
    "num_patches", "max_position_embeddings", "projection_dim", "projection_size", "eos_token_id",
    "vision_pooling", "text_pooling",
)  # fmt: skip


class BaseReference(BaseModel):
    """Names a base model, in memory and in a checkpoint.

    Attributes:
        name: the folder or hub id that it was loaded from (two of them, joined by " + ", for a dual encoder).
        revision: the hub's commit or the one asked for; None for a folder.
        fingerprint: see `fingerprint`; decides whether two bases are the same, wherever they were loaded from.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    revision: str | None
    fingerprint: str


def fingerprint(models: Mapping[str, nn.Module]) -> str:
    """16 hexadecimal digits: of every weight in float32 and of the settings that change what a model computes.

    Only settings that every version of the library writes are hashed.
    """
    digest = hashlib.sha256()
    for name in sorted(models):
        model = models[name]
        config = getattr(model, "config", None)
        settings = _settings(config.to_dict()) if config is not None else {}
        digest.update(json.dumps([name, settings], sort_keys=True).encode())
        for parameter_name, parameter in sorted(model.named_parameters()):
            values = parameter.detach().float().cpu().contiguous().numpy().reshape(-1)
            digest.update(f"{parameter_name}{tuple(parameter.shape)}".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()[:16]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    picked = {key: config[key] for key in _HYPERPARAMETERS if config.get(key) is not None}
    nested = {key: _settings(value) for key, value in config.items() if isinstance(value, Mapping) and "config" in key}
    return picked | nested
