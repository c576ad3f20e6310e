"""Reports on a run, or compares two."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, TypeAdapter, ValidationError
from rich.console import Console

from siglip_med.commands import train
from siglip_med.core.config import Node, instantiate
from siglip_med.core.errors import UserError
from siglip_med.core.trust import build_trusted, check_trusted
from siglip_med.metrics import Predictions, headline_metrics
from siglip_med.models import (
    MODEL_BUILDERS,
    Device,
    TwoTower,
    choose_device,
    load_model,
    model_node,
    read_checkpoint,
)
from siglip_med.report import ReportInputs, ReportSettings, RunMeta, read_curves, write_report
from siglip_med.report.comparison import PREDICTIONS, Comparison, compare_runs, write_comparison
from siglip_med.report.data_card import DATA_CARD
from siglip_med.report.explaining import explain_mistakes
from siglip_med.report.inputs import Explanation
from siglip_med.runs.components import (
    Components,
    ConditionSettings,
    build_components,
    build_model,
    data_builders,
)
from siglip_med.runs.confined_caches import kept_below
from siglip_med.runs.derived import Derivation, Derived, derive_crm, derive_interpolation
from siglip_med.runs.folder import run_folder
from siglip_med.runs.settings import PathSettings

NAMES = ("val", "test", "zero_shot_val", "zero_shot_test", "probe_test")
_SAME = 1e-5


class Settings(BaseModel):
    """Top level of ``conf/evaluate.yaml``.

    Attributes:
        checkpoint: of the run to report on, or None.
        compare: two run folders, or None.
        data: keys of the run's ``data`` config to replace, for a run that was trained elsewhere.
        base: where the base model lies now, if it moved; for a dual encoder a mapping with ``vision`` and ``text``.
        device: where the model runs, if predictions have to be made.
        derive: better answers from the run without training: ``interpolation`` takes the weights between base and
            trained model that validation likes best, ``crm`` ranks by expected ICD distance.
        recompute: whether to predict again where the run folder holds predictions of this checkpoint.
        output: folder of the report; None for ``<run folder>/report``.
    """

    model_config = ConfigDict(extra="forbid")

    checkpoint: str | None
    compare: list[str] | None
    data: dict[str, Any]
    base: str | dict[str, str] | None
    device: Device
    derive: Derivation | None
    recompute: bool
    output: str | None
    report: Node
    paths: PathSettings


@dataclass(frozen=True)
class Result:
    """The page that was written, and for two runs the comparison that it shows."""

    page: Path
    comparison: Comparison | None = None


def run(settings: Settings) -> Result:
    """Writes the report or the comparison that is asked for.

    Raises:
        UserError: the settings, the checkpoint or a run folder is wrong.
    """
    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    report: ReportSettings = instantiate(settings.report)
    if settings.checkpoint is not None and settings.compare is None:
        return Result(report_run(Path(settings.checkpoint), settings, report))
    if settings.compare is None or settings.checkpoint is not None:
        raise UserError("give either checkpoint=logs/…/checkpoints/best.ckpt or compare=[runA,runB]")
    if len(settings.compare) != 2:
        raise UserError(f"compare needs two run folders, not {len(settings.compare)}: compare=[runA,runB]")
    comparison = compare_runs(Path(settings.compare[0]), Path(settings.compare[1]), report)
    return Result(write_comparison(comparison, Path(settings.output or settings.paths.output_dir)), comparison)


def show(result: Result) -> None:
    """Prints the comparison, if there is one, and where the page is."""
    console = Console(width=max(Console().width, 130))
    if result.comparison is not None:
        console.print(result.comparison.screen_table())
    console.print(f"  report: {result.page}", soft_wrap=True, highlight=False, markup=False)


def report_run(checkpoint: Path, settings: Settings, report: ReportSettings) -> Path:
    """Writes the report of one checkpoint.

    Args:
        checkpoint: of a fine-tuning run.
        settings: where its data and its base lie now, and where the report goes.
        report: what is in it.

    Returns:
        Path of the HTML page.

    Raises:
        UserError: the checkpoint cannot be read, or it has to be predicted again and cannot be.
    """
    payload, folder = read_checkpoint(checkpoint)["siglip_med"], run_folder(checkpoint)
    cache = settings.paths.cache_dir
    found = None if settings.recompute or settings.data else saved_predictions(folder, payload)
    if found is None:
        Console().print(
            "the run folder holds no predictions of this checkpoint: predicting (this needs the run's data)"
        )
        found = predict_run(checkpoint, cache, settings.data, settings.base, settings.device)
    root = Path(report.image_root) if report.image_root else None
    if report.images and root is None:
        root = image_root(checkpoint, cache, settings.data)
    explanations, notes = explained(settings, checkpoint, found["test"], root if report.images else None)
    meta, derived = run_meta(checkpoint, folder, payload), None
    if settings.derive is not None:
        derived = derive(settings, checkpoint, folder, found, report)
        found = derived.predictions
        meta = RunMeta(f"{folder.name}, {settings.derive}", meta.facts | {"derived": str(settings.derive)}, meta.config)
    inputs = ReportInputs(
        test=found["test"],
        val=found["val"],
        zero_shot=found.get("zero_shot_test"),
        probe=found.get("probe_test"),
        curves=read_curves(folder),
        meta=meta,
        image_root=root if report.images else None,
        data_card=folder / DATA_CARD if (folder / DATA_CARD).is_file() else None,
        explanations=explanations,
        explanation_notes=notes,
    )
    place = folder if derived is None else derived.folder
    return write_report(inputs, Path(settings.output) if settings.output else place / "report", report)


def explained(
    settings: Settings, checkpoint: Path, test: Predictions, root: Path | None
) -> tuple[tuple[Explanation, ...], tuple[str, ...]]:
    """Where the model looked in the surest mistakes, if photographs may be shown; see `explain_mistakes`.

    Args:
        settings: of the command.
        checkpoint: of the run.
        test: its predictions.
        root: of the photographs; None where they may not be shown.
    """
    if root is None:
        return (), ()
    if settings.derive is not None:
        return (), (
            f"no maps of the mistakes: the report is of answers that {settings.derive} derives from the run, and the "
            "maps would be of the run's own; give its checkpoint without derive, or the derived one",
        )
    found, notes = explain_mistakes(checkpoint, settings.base, settings.device, test, root)
    for note in notes:
        Console().print(f"  {note}", soft_wrap=True, highlight=False, markup=False)
    return found, notes


def derive(
    settings: Settings, checkpoint: Path, folder: Path, found: dict[str, Predictions], report: ReportSettings
) -> Derived:
    """Makes what ``settings.derive`` asks for from a run, in a folder of its own below the run's.

    Args:
        settings: of the command.
        checkpoint: of the run.
        folder: of the run.
        found: its predictions.
        report: of the intervals.
    """
    if settings.derive == "crm":
        return derive_crm(folder, found)
    stored = stored_run(checkpoint, settings.paths.cache_dir, settings.data, settings.base)
    components = stored_components(stored, choose_device(settings.device))
    return derive_interpolation(folder, checkpoint, components, report)


@dataclass(frozen=True)
class StoredRun:
    """What of a checkpoint's config is needed to predict again; nothing in it is built but by `trust`.

    Attributes:
        model, data, features: nodes.
        conditions: codes and geometry.
        seed: of the run.
        source: the checkpoint, for messages.
        probe_images: as in `EvaluationSettings`; 0 for a run from before there was a probe.
    """

    model: Node
    data: Node
    features: Node | None
    conditions: ConditionSettings
    seed: int
    source: str
    probe_images: int


def stored_run(
    checkpoint: Path,
    cache_dir: str | Path,
    data: Mapping[str, object] | None = None,
    base: str | Mapping[str, str] | None = None,
) -> StoredRun:
    """What a checkpoint says of its data and its model.

    Args:
        checkpoint: a checkpoint of a fine-tuning run.
        cache_dir: what is kept is kept below it, wherever the checkpoint says; ``data`` may name other folders.
        data: keys of its ``data`` node to replace, e.g. ``{"source": {"root": "…"}}`` on another machine.
        base: where the base lies now, as in `load_model`.

    Raises:
        UserError: the checkpoint cannot be read, or its config would build something else than a model and its data.
    """
    payload = read_checkpoint(checkpoint)["siglip_med"]
    model = model_node(payload, checkpoint, base)
    config = payload["config"]
    for name in ("data", "features", "conditions", "seed"):
        check_trusted(config.get(name), data_builders(), name, str(checkpoint))
    stored = config.get("data")
    if not isinstance(stored, Mapping):
        raise UserError(f"{checkpoint}: its config names no data: it is no checkpoint of a fine-tuning run")
    if isinstance(stored.get("source"), Mapping) and stored["source"].get("download"):
        # What a file says is not fetched from where it says, unless asked again.
        stored = {**stored, "source": {**stored["source"], "download": False}}
    stored, features = kept_below(cache_dir, stored, config.get("features"), data or {})
    node = _replaced(stored, data or {})
    check_trusted(node, data_builders(), "data", "the data=… given")
    try:
        return StoredRun(
            model,
            node,
            features,
            ConditionSettings.model_validate(config.get("conditions")),
            TypeAdapter(NonNegativeInt).validate_python(config.get("seed")),
            str(checkpoint),
            TypeAdapter(NonNegativeInt).validate_python((config.get("evaluation") or {}).get("probe_images", 0)),
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


def predict_run(
    checkpoint: Path,
    cache_dir: str | Path,
    data: Mapping[str, object] | None = None,
    base: str | Mapping[str, str] | None = None,
    device: Device = "auto",
) -> dict[str, Predictions]:
    """Validation and test predictions of a checkpoint, and the zero-shot ones of its base.

    Args:
        checkpoint: a checkpoint of a fine-tuning run.
        cache_dir: as in `stored_run`.
        data: as in `stored_run`.
        base: as in `stored_run`.
        device: where the model runs.

    Returns:
        Predictions named as in a run folder: ``val``, ``test``, ``zero_shot_val``, ``zero_shot_test``, and
        ``probe_test`` where the run fitted a linear probe.

    Raises:
        UserError: the checkpoint, its base, its data or the device cannot be had, or the split is no longer the one it
            trained on.
    """
    stored, chosen = stored_run(checkpoint, cache_dir, data, base), choose_device(device)
    model, payload = load_model(checkpoint, base)

    tuned = stored_components(stored, chosen, model)
    tuned.check_split(payload["split_hash"], checkpoint)
    after, base_run = train.predict(tuned), stored_components(stored, chosen)
    before = train.predict(base_run)
    found = {"val": after.val, "test": after.test, "zero_shot_val": before.val, "zero_shot_test": before.test}
    probe = train.fit_probe(base_run, before, stored.probe_images, stored.seed)
    return found if probe is None else found | {"probe_test": probe.test}


def stored_components(stored: StoredRun, device: torch.device, model: TwoTower | None = None) -> Components:
    """The data of a stored run, with a model or else with its base as it was pretrained."""
    if model is None:
        build = partial(build_trusted, allowed=MODEL_BUILDERS, where="model", source=stored.source)
        model = build_model(stored.model, stored.seed, build)
    build = partial(build_trusted, allowed=data_builders(), where="data", source=stored.source)
    return build_components(model, stored.data, stored.features, stored.conditions, stored.seed, device, build)


def image_root(checkpoint: Path, cache_dir: str | Path, data: Mapping[str, object] | None = None) -> Path:
    """The folder that the image paths of a run's table are relative to; arguments as in `stored_run`."""
    stored = stored_run(checkpoint, cache_dir, data)
    source = build_trusted(stored.data.get("source"), data_builders(), "data.source", stored.source)
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
    """What the report says of the run, from the checkpoint's own record."""
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
    return RunMeta(folder.name, {name: value for name, value in facts.items() if value}, plain)
