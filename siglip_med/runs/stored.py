"""A run that is read again: from a checkpoint to the run's parts, and to its predictions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from siglip_med.core.config import Node
from siglip_med.core.errors import UserError
from siglip_med.core.trust import build_trusted, check_trusted
from siglip_med.metrics import Interval, Predictions, headline_metrics
from siglip_med.models import (
    Device,
    Refit,
    choose_device,
    model_builders,
    model_node,
    read_checkpoint,
    read_familiarity,
    read_refit,
    read_trained,
)
from siglip_med.report import RunMeta
from siglip_med.report.differences import PREDICTIONS
from siglip_med.report.evidence import BESIDE, PROBES, PROMPTS, PROMPTS_VAL
from siglip_med.runs.components import Components, build_components, build_model, data_builders
from siglip_med.runs.confined_caches import kept_below
from siglip_med.runs.scoring import Base, answers, familiar, predict
from siglip_med.runs.settings import ConditionSettings

NAMES = ("val", "test", "zero_shot_val", "zero_shot_test", *BESIDE.values(), PROMPTS_VAL)
_SAME = 1e-5


@dataclass(frozen=True)
class StoredRun:
    """What of a checkpoint's config is needed to predict again; nothing in it is built but by `trust`.

    Attributes:
        model: node of the model.
        data: node of the data.
        features: node of the kept features.
        conditions: codes and geometry.
        seed: of the run.
        source: the checkpoint, for messages.
        probe_images: as in `EvaluationSettings`; 0 for a run from before there was a probe.
        trust: code of one's own that may be built, as in `siglip_med.core.trust.vouched`.
    """

    model: Node
    data: Node
    features: Node | None
    conditions: ConditionSettings
    seed: int
    source: str
    probe_images: int
    trust: tuple[str, ...] = ()


def stored_run(
    checkpoint: Path,
    cache_dir: str | Path,
    data: Mapping[str, object] | None = None,
    base: str | Mapping[str, str] | None = None,
    trust: Sequence[str] = (),
) -> StoredRun:
    """The data and the model that a checkpoint records.

    Args:
        checkpoint: a checkpoint of a fine-tuning run.
        cache_dir: every cache is below it, whatever the checkpoint names; ``data`` may name other folders.
        data: keys of its ``data`` node to replace, e.g. ``{"source": {"root": "…"}}`` on another machine.
        base: path of the base if it moved, as in `load_model`.
        trust: as in `load_model`, for towers, sources, splitters and samplers of one's own.

    Raises:
        UserError: the checkpoint cannot be read, or its config would build something else than a model and its data.
    """
    payload = read_checkpoint(checkpoint)["siglip_med"]
    model, allowed = model_node(payload, checkpoint, base, trust), data_builders(trust)
    config = payload["config"]
    for name in ("data", "features", "conditions", "seed"):
        check_trusted(config.get(name), allowed, name, str(checkpoint))
    stored = config.get("data")
    if not isinstance(stored, Mapping):
        raise UserError(f"{checkpoint}: its config names no data: it is no checkpoint of a fine-tuning run")
    if isinstance(stored.get("source"), Mapping) and stored["source"].get("download"):
        # Nothing is downloaded because a file names it, unless the command line asks for it.
        stored = {**stored, "source": {**stored["source"], "download": False}}
    stored, features = kept_below(cache_dir, stored, config.get("features"), data or {}, allowed)
    node = _replaced(stored, data or {})
    check_trusted(node, allowed, "data", "the data=… given")
    try:
        return StoredRun(
            model,
            node,
            features,
            ConditionSettings.model_validate(config.get("conditions")),
            TypeAdapter(NonNegativeInt).validate_python(config.get("seed")),
            str(checkpoint),
            TypeAdapter(NonNegativeInt).validate_python((config.get("evaluation") or {}).get("probe_images", 0)),
            tuple(trust),
        )
    except ValidationError as error:
        raise UserError(f"{checkpoint}: its config is damaged: {error.errors()[0]['msg'].lower()}") from error


def _replaced(node: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The node with some of its leaves replaced."""
    result = dict(node)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = _replaced(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


@dataclass(frozen=True)
class OpenedRun:
    """A run from disk, ready to be predicted: its base as it was pretrained, with its data, and what was trained.

    Attributes:
        checkpoint: where it was read.
        stored: what its config says.
        components: the base and the data, split as the run split it.
        trained: weights for `TwoTower.load_trainable_state`.
        payload: of the checkpoint.
        refit: what answers in place of the prompts, or None.
    """

    checkpoint: Path
    stored: StoredRun
    components: Components
    trained: Mapping[str, torch.Tensor]
    payload: Mapping[str, Any]
    refit: Refit | None


def open_run(
    checkpoint: Path,
    cache_dir: str | Path,
    data: Mapping[str, object] | None = None,
    base: str | Mapping[str, str] | None = None,
    device: Device = "auto",
    trust: Sequence[str] = (),
) -> OpenedRun:
    """Reads a checkpoint, its base and its data.

    Args:
        checkpoint: a checkpoint of a fine-tuning run.
        cache_dir: as in `stored_run`.
        data: as in `stored_run`.
        base: as in `stored_run`.
        device: where the model runs.
        trust: as in `stored_run`.

    Raises:
        UserError: the checkpoint, its base, its data or the device is not available, or the split is no longer
            the one it trained on.
    """
    stored, chosen = stored_run(checkpoint, cache_dir, data, base, trust), choose_device(device)
    components = stored_components(stored, chosen)
    trained, payload = read_trained(components.model, checkpoint)
    components.check_split(payload["split_hash"], checkpoint)
    refit = read_refit(payload.get("refit"), len(payload["conditions"]), str(checkpoint))
    return OpenedRun(checkpoint, stored, components, trained, payload, refit)


def predict_run(run: OpenedRun) -> dict[str, Predictions]:
    """Validation and test predictions of a run, and the zero-shot ones of its base.

    Returns:
        Predictions named as in a run folder: ``val``, ``test``, ``zero_shot_val``, ``zero_shot_test``, and
        ``probe_test`` and ``kernel_probe_test`` where the run fitted probes, ``prompts_val`` and ``prompts_test`` where
        a refit answers.
    """
    components = run.components
    base = Base.judge(components, run.stored.probe_images, run.stored.seed)
    components.model.load_trainable_state(run.trained)
    prompts = predict(components)
    after, rule = answers(run.refit, prompts), read_familiarity(run.payload)
    if rule is not None:
        _, after = familiar(components, run.refit, after, rule)
    before, prompts, after = map(base.beside, (base.zero_shot, prompts, after))
    found = {"val": after.val, "test": after.test, "zero_shot_val": before.val, "zero_shot_test": before.test}
    found |= {PROBES[name]: probe.test for name, probe in base.probes().items()}
    return found | ({} if run.refit is None else {PROMPTS_VAL: prompts.val, BESIDE[PROMPTS]: prompts.test})


def stored_components(stored: StoredRun, device: torch.device) -> Components:
    """The data of a stored run with its base, as it was pretrained."""
    build = partial(build_trusted, allowed=model_builders(stored.trust), where="model", source=stored.source)
    model = build_model(stored.model, stored.seed, build)
    build = partial(build_trusted, allowed=data_builders(stored.trust), where="data", source=stored.source)
    return build_components(model, stored.data, stored.features, stored.conditions, stored.seed, device, build)


def image_root(
    checkpoint: Path,
    cache_dir: str | Path,
    data: Mapping[str, object] | None = None,
    trust: Sequence[str] = (),
) -> Path:
    """The folder that the image paths of a run's table are relative to; arguments as in `stored_run`."""
    stored = stored_run(checkpoint, cache_dir, data, trust=trust)
    source = build_trusted(stored.data.get("source"), data_builders(trust), "data.source", stored.source)
    source.prepare()
    return Path(source.load().root)


def saved_predictions(folder: Path, payload: Mapping[str, Any]) -> dict[str, Predictions] | None:
    """The predictions of a run folder, if they are those of a checkpoint.

    A finished run writes the test metrics of its best checkpoint into it; predictions that give the same numbers on the
    same conditions are taken for that checkpoint's.

    Args:
        folder: of the run.
        payload: of the checkpoint.

    Returns:
        Predictions by name, or None where they are absent or another checkpoint's (``last.ckpt``, for example).

    Raises:
        UserError: predictions are there but cannot be read.
    """
    present = [name for name in NAMES if (folder / PREDICTIONS / name).is_dir()]
    if not {"val", "test"} <= set(present) or not payload.get("metrics"):
        return None
    test = Predictions.load(folder / PREDICTIONS / "test")
    if tuple(payload["conditions"]) != test.conditions:
        return None
    values = headline_metrics(test)
    for name, stated in payload["metrics"].items():
        estimate = stated["estimate"] if isinstance(stated, Mapping) else stated
        if name not in values or not np.isclose(values[name], estimate, atol=_SAME, rtol=0, equal_nan=True):
            return None
    rest = {name: Predictions.load(folder / PREDICTIONS / name) for name in present if name != "test"}
    return {"test": test} | rest


def run_meta(checkpoint: Path, folder: Path, payload: Mapping[str, Any]) -> RunMeta:
    """The report's description of the run, from the checkpoint's own record."""
    config = payload["config"]
    base = payload.get("base") or {}
    model, source = config.get("model") or {}, (config.get("data") or {}).get("source") or {}
    facts = {
        "experiment": str(config.get("name", "")),
        "base model": str(base.get("name", "")),
        "model": str(model.get("_target_", "")).removeprefix("siglip_med.models."),
        "data": str(source.get("_target_", "")).rpartition(".")[2],
        "seed": str(config.get("seed", "")),
        "split hash": str(payload.get("split_hash", ""))[:12],
        "checkpoint": str(checkpoint.resolve().relative_to(folder)),
    }
    plain: dict[str, object] = json.loads(json.dumps(config, default=str))
    own = {name: Interval(**_numbers(stated)) for name, stated in (payload.get("own_metrics") or {}).items()}
    return RunMeta(folder.name, {name: value for name, value in facts.items() if value}, plain, own)


def _numbers(stated: Mapping[str, Any]) -> dict[str, float]:
    """An interval as a checkpoint keeps it; what was undefined is NaN again."""
    return {end: float("nan") if stated.get(end) is None else float(stated[end]) for end in ("estimate", "low", "high")}
