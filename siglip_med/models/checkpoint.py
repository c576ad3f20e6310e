"""Checkpoints that hold what was trained and name the base that they belong to."""

import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from siglip_med.core.csv_reading import control_character
from siglip_med.core.errors import UserError, first_fault
from siglip_med.core.provenance import Provenance
from siglip_med.core.seals import check_sealed, write_sealed
from siglip_med.core.trust import Builders, build_trusted, builders, check_trusted, vouched
from siglip_med.models.base import BaseReference
from siglip_med.models.factory import clip, dual_encoder, siglip, siglip2
from siglip_med.models.familiarity import Familiarity
from siglip_med.models.hub import not_finite
from siglip_med.models.reading import check_reading, reading
from siglip_med.models.refit import Refit
from siglip_med.models.two_tower import TwoTower

PAYLOAD = "siglip_med"
FORMAT = "siglip-med checkpoint"
VERSION = 3
"""3: sealed, and says where its run stood; 2: settings of the re-cut package."""
STATE_PREFIX = "model."
_DEEPEST = 50

MODEL_BUILDERS = builders(siglip, siglip2, clip, dual_encoder)
"""All that the ``model`` node of a checkpoint may build."""


class Calibrated(BaseModel):
    """How confidences are made of logits."""

    model_config = ConfigDict(extra="forbid", strict=True)

    temperature: Annotated[FiniteFloat, Field(gt=0)]
    bias: FiniteFloat = 0.0


class Described(BaseModel):
    """What a checkpoint and an export both say of their model; a file may say anything."""

    model_config = ConfigDict(extra="allow", strict=True)

    conditions: list[str]
    codes: list[str]
    prompts: list[list[str]]
    calibration: Calibrated | None
    provenance: dict[Literal["kind", "name", "license"], str] | None = None
    image_bits: Annotated[int, Field(ge=8, le=16)] = 16
    familiarity: Familiarity | None = None
    reading: str | None = None

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        conditions, codes, prompts = self.conditions, self.codes, self.prompts
        if not len(conditions) == len(codes) == len(prompts):
            raise ValueError(f"{len(conditions)} conditions, {len(codes)} codes and {len(prompts)} lists of prompts")
        names = [name.strip() for name in conditions]
        if len(set(names)) < len(names) or not all(names):
            raise ValueError("a condition has no name, or two have the same")
        odd = next((text for text in (*conditions, *codes, *chain(*prompts)) if control_character(text)), None)
        if odd is not None:
            raise ValueError(f"{odd[:40]!r} holds a control character")
        for name, texts in zip(names, prompts, strict=True):
            if not texts or not all(map(str.strip, texts)):
                raise ValueError(f"{name!r} has no prompt, or an empty one")
        return self


class Payload(Described):
    """The shape of what a checkpoint says of its run."""

    format: str
    version: int
    config: dict[str, Any]
    base: BaseReference
    split_hash: str
    metrics: dict[str, Any]
    baselines: dict[str, dict[str, Any] | None] = {}
    refit: dict[Literal["about", "arrays"], Any] | None = None


def checkpoint_payload(
    model: TwoTower,
    config: Mapping[str, Any],
    conditions: Sequence[str],
    codes: Sequence[str],
    prompts: Sequence[Sequence[str]],
    split_hash: str,
    account: Sequence[str] = (),
    provenance: Provenance | None = None,
) -> dict[str, Any]:
    """What a checkpoint says of its run besides the weights, as plain types; a TypeError for anything else.

    `finalize_checkpoint` fills in metrics and calibration.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": _plain(config),
        "base": model.base.model_dump(),
        "conditions": _plain(conditions),
        "codes": _plain(codes),
        "prompts": _plain(prompts),
        "split_hash": str(split_hash),
        "image_bits": model.image_spec.bits,
        "reading": reading(model, prompts),
        "account": _plain(account),
        "provenance": provenance.as_dict() if provenance else None,
        "metrics": {},
        "calibration": None,
    }


class DamagedCheckpoint(UserError):
    """A file that was a checkpoint, and is truncated or altered."""


def write_checkpoint(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Writes a checkpoint whole, with a checksum over all of it; an earlier file of that name stays until then.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    write_sealed(path, lambda file: torch.save(dict(checkpoint), file), archive=True)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint without running any code that may hide in it.

    Args:
        path: a file that training wrote.

    Returns:
        Lightning's dictionary; ``["siglip_med"]`` is the payload, ``["state_dict"]`` what was trained.

    Raises:
        UserError: the file is missing, truncated, not a checkpoint of this project, or holds more than tensors and
            plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: give a file such as logs/…/checkpoints/best.ckpt")
    try:
        wrong = check_sealed(path)
        if wrong is not None and wrong.startswith("is damaged"):
            raise DamagedCheckpoint(f"{path} {wrong}: train or copy it again")
        _check_size(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"refused to load {path}: it holds more than tensors and plain values, and could run code; "
            "only checkpoints that this project wrote are read"
        ) from error
    except (RuntimeError, EOFError, OSError, LookupError, ArithmeticError, *_OF_BYTES) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DamagedCheckpoint(f"{path} is truncated or no checkpoint ({reason}): train or copy it again") from error
    payload = checkpoint.get(PAYLOAD) if isinstance(checkpoint, dict) else None
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this project: it has no entry {PAYLOAD!r}")
    if not isinstance(payload.get("version"), int):
        raise UserError(f"{path} names no version of its format: it is damaged, or was written by something else")
    if payload["version"] != VERSION:
        advice = (
            "update it" if payload["version"] > VERSION else "train it again, or read it with siglip-med as of then"
        )
        raise UserError(
            f"{path} has version {payload['version']} of the format, this program reads version {VERSION}: {advice}"
        )
    if wrong is not None:
        raise DamagedCheckpoint(f"{path} {wrong}: train or copy it again")
    if _depth(payload) > _DEEPEST:
        raise UserError(f"{path} is damaged or was written by something else: it is nested more than {_DEEPEST} deep")
    try:
        payload["image_bits"] = Payload.model_validate(payload).image_bits
    except ValidationError as error:
        raise UserError(f"{path} is damaged or was written by something else: {first_fault(error)}") from None
    weights = checkpoint.get("state_dict")
    if not (isinstance(weights, dict) and all(isinstance(value, torch.Tensor) for value in weights.values())):
        raise UserError(f"{path} is damaged or was written by something else: its state_dict holds no tensors")
    return checkpoint


def read_trained(
    model: TwoTower, path: str | Path, partial: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads trained weights for a model built like the run's own; with ``partial`` it may train more than that run.

    Returns:
        The weights by parameter name, for `TwoTower.load_trainable_state`, and the payload.

    Raises:
        UserError: as `read_checkpoint`; or the checkpoint belongs to another base or adaptation.
    """
    checkpoint = read_checkpoint(path)
    return _weights_for(model, checkpoint, path, partial), checkpoint[PAYLOAD]


def model_builders(trust: Sequence[str] = ()) -> Builders:
    """What a stored ``model`` node may build: the families of the package, and what its owner vouches for."""
    return {**MODEL_BUILDERS, **vouched(trust)}


def model_node(
    payload: Mapping[str, Any], path: str | Path, base: str | Mapping[str, str] | None = None, trust: Sequence[str] = ()
) -> dict[str, Any]:
    """The config node that a checkpoint's model is built from, checked and with its base where it is now.

    Args:
        payload: of the checkpoint.
        path: where the payload was read, for messages.
        base: where the base is now, if not where the run found it; for a dual encoder a mapping with ``vision``
            and ``text``.
        trust: code of one's own that the checkpoint may build, as in `siglip_med.core.trust.vouched`.

    Raises:
        UserError: the checkpoint names something else than a model, or has no such base.
    """
    node = payload["config"].get("model")
    check_trusted(node, model_builders(trust), "model", str(path))
    if not isinstance(node, Mapping):
        raise UserError(f"{path}: its config has no model that could be built")
    node = dict(node)
    if isinstance(base, str):
        if "path" not in node:
            raise UserError(
                f"{path} has two bases, {payload['base']['name']}: give 'base={{vision: folder, text: folder}}'"
            )
        return node | {"path": base, "revision": None}
    unknown = sorted(key for key in base or {} if key not in node)
    if unknown:
        raise UserError(f"base={{{unknown[0]}: …}}: {path} has no such base; give base=folder")
    return node | dict(base or {})


def load_model(
    path: str | Path, base: str | Mapping[str, str] | None = None, trust: Sequence[str] = ()
) -> tuple[TwoTower, dict[str, Any]]:
    """Rebuilds the model of a run: its base, then what was trained.

    Args:
        path: a checkpoint.
        base: as in `model_node`.
        trust: as in `model_node`.

    Returns:
        The model in evaluation mode, and the checkpoint's payload.

    Raises:
        UserError: the checkpoint cannot be read, its base is not available, or the base is another one.
    """
    checkpoint = read_checkpoint(path)
    node = model_node(checkpoint[PAYLOAD], path, base, trust)
    try:
        # The random numbers that initialize adapters and heads are overwritten: leave the caller's stream alone.
        with torch.random.fork_rng(devices=[]):
            model: TwoTower = build_trusted(node, model_builders(trust), "model", str(path))
    except UserError as error:
        raise UserError(f"cannot rebuild the base of {path}: {error}; or give its folder now: base=folder") from error
    model.load_trainable_state(_weights_for(model, checkpoint, path, partial=False))
    model.image_spec = replace(model.image_spec, bits=checkpoint[PAYLOAD]["image_bits"])
    return model.eval(), checkpoint[PAYLOAD]


def _depth(value: object) -> int:
    """How deep lists and mappings are nested, without recursion."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [item for one in level for item in _items(one)]
    return depth


def _items(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _check_size(path: Path) -> None:
    """Refuses an archive that unpacks to much more than it is: torch writes it without compression."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(item.file_size for item in archive.infolist())
    if unpacked > 1.5 * path.stat().st_size + 1_000_000:
        raise DamagedCheckpoint(
            f"{path} would unpack to {unpacked / 1e6:,.0f} MB, which no checkpoint does: train or copy it again"
        )


# what unpickling arbitrary bytes raises besides
_OF_BYTES = (ValueError, AttributeError, TypeError, AssertionError, MemoryError, struct.error)
_FUNCTION = ("embedding_dim", "image_size", "max_text_length", "vision_pooling", "text_pooling", "image_hidden")
_ADAPTERS = ("rank", "alpha", "use_rslora", "use_dora")


def check_same_function(theirs: Mapping[str, Any], ours: Mapping[str, Any], path: str | Path) -> None:
    """Makes sure that trained weights mean the same in another run: what they are multiplied with is in its settings.

    Raises:
        UserError: a setting differs that changes what the same weights compute.
    """
    same_family = theirs.get("_target_") == ours.get("_target_")
    pairs = [("model", key, theirs, ours) for key in _FUNCTION if same_family]
    mine, yours = ours.get("adaptation") or {}, theirs.get("adaptation") or {}
    if set(_ADAPTERS) & set(mine) and set(_ADAPTERS) & set(yours):
        pairs += [("model.adaptation", key, yours, mine) for key in _ADAPTERS]
    for where, key, a, b in pairs:
        if a.get(key) != b.get(key):
            raise UserError(
                f"{where}.{key}={b.get(key)}: the weights of {path} were trained with {a.get(key)}, and would compute "
                f"something else; give {where}.{key}={a.get(key)}"
            )


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
    other = next((name for name, tensor in weights.items() if not tensor.is_floating_point()), None)
    if other is not None:
        raise UserError(f"{path}: the trained weight {other} holds {weights[other].dtype}, not real numbers")
    if (undefined := not_finite(weights)) is not None:
        raise UserError(f"{path}: the trained weight {undefined} is not finite: the run diverged; train it again")
    try:
        model.check_trainable_state(weights, partial)
        check_reading(model, checkpoint[PAYLOAD]["prompts"], checkpoint[PAYLOAD].get("reading"), "it")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return weights


def finalize_checkpoint(
    path: str | Path, refit: Refit | None = None, familiarity: Familiarity | None = None, **entries: Any
) -> None:
    """Writes refit, familiarity and results (``metrics``, …) into a finished run's checkpoint, whole or not at all."""
    path = Path(path)
    checkpoint = read_checkpoint(path)
    checkpoint[PAYLOAD] |= {name: _plain(value) for name, value in entries.items()}
    checkpoint[PAYLOAD]["refit"] = None if refit is None else refit.stored()
    checkpoint[PAYLOAD]["familiarity"] = None if familiarity is None else familiarity.model_dump()
    write_checkpoint(checkpoint, path)


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
