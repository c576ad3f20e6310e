"""Checkpoints that hold what was trained and name the base that they belong to."""

import os
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from hydra.errors import InstantiationException

from siglip_med.errors import UserError
from siglip_med.models.two_tower import TwoTower

PAYLOAD = "siglip_med"
FORMAT = "siglip-med checkpoint"
VERSION = 2
"""2: settings of the re-cut package; the weights of version 1 have other names."""
STATE_PREFIX = "model."

_TARGETS = frozenset(
    f"siglip_med.models.{name}"
    for name in ("siglip", "siglip2", "clip", "dual_encoder", "Lora", "FullFineTune", "Frozen", "Logits")
)


def checkpoint_payload(
    model: TwoTower,
    config: Mapping[str, Any],
    conditions: Sequence[str],
    codes: Sequence[str],
    prompts: Sequence[Sequence[str]],
    split_hash: str,
    metrics: Mapping[str, Any] | None = None,
    calibration: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What a checkpoint says of its run besides the weights, as plain types.

    Args:
        model: the trained model; its base is named.
        config: the resolved config of the run; the model is rebuilt from its ``model`` node.
        conditions: names of the C conditions.
        codes: their ICD-10-CM codes.
        prompts: C lists of sentences whose embeddings are averaged.
        split_hash: says which split was trained on.
        metrics: results of the run, if it is over.
        calibration: ``temperature`` and ``bias`` fitted on the validation split, if any.

    Raises:
        TypeError: a value is neither a number, a text, nor a collection of those.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": _plain(config),
        "base": model.base.as_dict(),
        "conditions": _plain(conditions),
        "codes": _plain(codes),
        "prompts": _plain(prompts),
        "split_hash": str(split_hash),
        "metrics": _plain(metrics or {}),
        "calibration": None if calibration is None else _plain(calibration),
    }


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint without running any code that may hide in it.

    Args:
        path: a file that training wrote.

    Returns:
        Lightning's dictionary; ``["siglip_med"]`` is the payload, ``["state_dict"]`` what was trained.

    Raises:
        UserError: the file is missing, cut off, not a checkpoint of this project, or holds more than tensors and
            plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: give a file such as logs/…/checkpoints/best.ckpt")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"refused to load {path}: it holds more than tensors and plain values, and could run code; "
            "only checkpoints that this project wrote are read"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} is cut off or no checkpoint ({reason}): train or copy it again") from error
    payload = checkpoint.get(PAYLOAD) if isinstance(checkpoint, dict) else None
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this project: it has no entry {PAYLOAD!r}")
    if payload["version"] != VERSION:
        advice = (
            "update it" if payload["version"] > VERSION else "train it again, or read it with siglip-med as of then"
        )
        raise UserError(
            f"{path} has version {payload['version']} of the format, this program reads version {VERSION}: {advice}"
        )
    return checkpoint


def read_trained(
    model: TwoTower, path: str | Path, partial: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads a checkpoint's trained weights for a model that was built like the run's own, and leaves the model alone.

    Args:
        model: its base must be the checkpoint's.
        path: a checkpoint.
        partial: the model may train more than the checkpoint's run did: heads first, then adapters too.

    Returns:
        The weights by parameter name, for `TwoTower.load_trainable_state`, and the payload.

    Raises:
        UserError: as `read_checkpoint`; or the checkpoint belongs to another base or adaptation.
    """
    checkpoint = read_checkpoint(path)
    return _weights_for(model, checkpoint, path, partial), checkpoint[PAYLOAD]


def load_trained(model: TwoTower, path: str | Path) -> dict[str, Any]:
    """Puts a checkpoint's trained weights into a model that was built like the run's own.

    Returns:
        The payload.

    Raises:
        UserError: as `read_trained`.
    """
    weights, payload = read_trained(model, path)
    model.load_trainable_state(weights)
    return payload


def model_node(
    payload: Mapping[str, Any], path: str | Path, base: str | Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The config node that a checkpoint's model is built from, checked and with its base where it lies now.

    Args:
        payload: of the checkpoint.
        path: where the payload was read, for messages.
        base: where the base lies now, if not where the run found it; for a dual encoder a mapping with ``vision``
            and ``text``.

    Raises:
        UserError: the checkpoint names something else than a model, or has no such base.
    """
    node = dict(payload["config"].get("model") or {})
    _check_targets(path, node)
    if isinstance(base, str):
        if "path" not in node:
            raise UserError(
                f"{path} has two bases, {payload['base']['name']}: give base.vision=folder base.text=folder"
            )
        return node | {"path": base, "revision": None}
    unknown = sorted(key for key in base or {} if key not in node)
    if unknown:
        raise UserError(f"base.{unknown[0]}: {path} has no such base; give base=folder")
    return node | dict(base or {})


def load_model(path: str | Path, base: str | Mapping[str, str] | None = None) -> tuple[TwoTower, dict[str, Any]]:
    """Rebuilds the model of a run: its base, then what was trained.

    Args:
        path: a checkpoint.
        base: as in `model_node`.

    Returns:
        The model in evaluation mode, and the checkpoint's payload.

    Raises:
        UserError: the checkpoint cannot be read, its base cannot be had, or the base is another one.
    """
    checkpoint = read_checkpoint(path)
    node = model_node(checkpoint[PAYLOAD], path, base)
    try:
        # The random numbers that initialize adapters and heads are overwritten: leave the caller's stream alone.
        with torch.random.fork_rng(devices=[]):
            model: TwoTower = hydra.utils.instantiate(node, _convert_="all")
    except InstantiationException as error:  # Hydra wraps whatever the factory raised
        if not isinstance(error.__cause__, UserError):
            raise
        raise UserError(
            f"cannot rebuild the base of {path}: {error.__cause__}; or say where it lies now with base=folder"
        ) from error
    model.load_trainable_state(_weights_for(model, checkpoint, path, partial=False))
    return model.eval(), checkpoint[PAYLOAD]


def _weights_for(
    model: TwoTower, checkpoint: Mapping[str, Any], path: str | Path, partial: bool
) -> dict[str, torch.Tensor]:
    """The trained weights by parameter name, once they are known to belong to the model."""
    theirs = checkpoint[PAYLOAD]["base"]
    if theirs["fingerprint"] != model.base.fingerprint:
        revision = f" at revision {theirs['revision']}" if theirs["revision"] else ""
        raise UserError(
            f"{path} was trained on {theirs['name']}{revision} (fingerprint {theirs['fingerprint']}), but "
            f"{model.base.name} is another base (fingerprint {model.base.fingerprint}): load it on its own base"
        )
    weights = {name.removeprefix(STATE_PREFIX): tensor for name, tensor in checkpoint["state_dict"].items()}
    try:
        model.check_trainable_state(weights, partial)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return weights


def finalize_checkpoint(path: str | Path, **entries: Any) -> None:
    """Writes results into a finished run's checkpoint.

    Args:
        path: a checkpoint; replaced whole or not at all.
        **entries: new values of the payload, e.g. ``metrics`` and ``calibration``.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    checkpoint[PAYLOAD] |= {name: _plain(value) for name, value in entries.items()}
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(handle)
    try:
        torch.save(checkpoint, name)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _check_targets(path: str | Path, node: Any) -> None:
    """A config that comes out of a file may name any function: only this package's builders are called."""
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if target is not None and target not in _TARGETS:
            raise UserError(f"refused to load {path}: its model config would call {target!r}")
        for value in node.values():
            _check_targets(path, value)
    elif isinstance(node, list):
        for value in node:
            _check_targets(path, value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | np.ndarray):
        return [_plain(item) for item in value]
    raise TypeError(f"a checkpoint holds plain values alone, not {type(value).__name__}")
