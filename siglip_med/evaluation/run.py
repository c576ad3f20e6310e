"""The body of evaluate.py: a report of one run, or two runs compared."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict
from rich.console import Console

from siglip_med.config import validate_config
from siglip_med.errors import UserError
from siglip_med.evaluation.compare import PREDICTIONS, compare_runs, write_comparison
from siglip_med.evaluation.metrics import headline_metrics
from siglip_med.evaluation.predictions import Predictions
from siglip_med.evaluation.report import ReportInputs, ReportSettings, RunMeta, read_curves, write_report

NAMES = ("val", "test", "zero_shot_val", "zero_shot_test")
_SAME = 1e-5

Base = str | dict[str, str] | None
Device = Literal["auto", "cpu", "cuda", "mps"]


class EvaluateSettings(BaseModel):
    """Top level of ``conf/evaluate.yaml``.

    Attributes:
        checkpoint: of the run to report on, or None.
        compare: two run folders, or None.
        data: keys of the run's ``data`` config to replace, for a run that was trained elsewhere.
        base: where the base model lies now, if it moved; for a dual encoder a mapping with ``vision`` and ``text``.
        device: where the model runs, if predictions have to be made.
        recompute: whether to predict again where the run folder holds predictions of this checkpoint.
        output: folder of the report; None for ``<run folder>/report``.
    """

    model_config = ConfigDict(extra="forbid")

    checkpoint: str | None
    compare: list[str] | None
    data: dict[str, Any]
    base: Base
    device: Device
    recompute: bool
    output: str | None
    report: Any
    paths: Any


@dataclass(frozen=True)
class RunAccess:
    """What evaluation needs from training, handed in so that the arrow between the rooms stays one-way.

    Attributes:
        payload: checkpoint -> what it says of its run: config, base, conditions, split_hash, metrics.
        predict: checkpoint, replaced keys of its ``data`` config, base, device -> predictions by the names in `NAMES`.
        image_root: checkpoint, replaced keys -> folder that the images of the run's data are relative to.
    """

    payload: Callable[[Path], Mapping[str, Any]]
    predict: Callable[[Path, dict[str, object], Base, Device], Mapping[str, Predictions]]
    image_root: Callable[[Path, dict[str, object]], Path]


def run(config: DictConfig, access: RunAccess) -> Path:
    """Writes the report or the comparison that a config asks for.

    Args:
        config: of ``conf/evaluate.yaml``.
        access: to checkpoints.

    Returns:
        Path of the HTML page.

    Raises:
        UserError: the config, the checkpoint or a run folder is wrong.
    """
    validate_config(config, EvaluateSettings)
    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    if (config.checkpoint is None) == (config.compare is None):
        raise UserError("give either checkpoint=logs/…/checkpoints/best.ckpt or compare=[runA,runB]")
    settings: ReportSettings = hydra.utils.instantiate(config.report)
    console = Console(width=max(Console().width, 130))
    if config.compare is not None:
        if len(config.compare) != 2:
            raise UserError(f"compare needs two run folders, not {len(config.compare)}: compare=[runA,runB]")
        comparison = compare_runs(Path(config.compare[0]), Path(config.compare[1]), settings)
        console.print(comparison.screen_table())
        page = write_comparison(comparison, Path(config.output or config.paths.output_dir))
    else:
        page = report_run(Path(config.checkpoint), config, settings, access, console)
    console.print(f"  report: {page}", soft_wrap=True, highlight=False)
    return page


def report_run(
    checkpoint: Path, config: DictConfig, settings: ReportSettings, access: RunAccess, console: Console
) -> Path:
    """Writes the report of one checkpoint.

    Args:
        checkpoint: of a fine-tuning run.
        config: of ``conf/evaluate.yaml``.
        settings: of the report.
        access: to checkpoints.
        console: told where the predictions come from.

    Returns:
        Path of the HTML page.

    Raises:
        UserError: the checkpoint cannot be read, or it has to be predicted again and cannot be.
    """
    payload, folder = access.payload(checkpoint), run_folder(checkpoint)
    data = OmegaConf.to_container(config.data, resolve=True)
    assert isinstance(data, dict)
    replaced: dict[str, object] = {str(key): value for key, value in data.items()}
    found: Mapping[str, Predictions] | None = None
    if not (config.recompute or replaced):
        found = saved_predictions(folder, payload)
    if found is None:
        console.print("the run folder holds no predictions of this checkpoint: predicting (this needs the run's data)")
        base: Any = OmegaConf.to_container(config.base) if OmegaConf.is_config(config.base) else config.base
        found = access.predict(checkpoint, replaced, base, config.device)
    root = None
    if settings.images:
        root = Path(settings.image_root) if settings.image_root else access.image_root(checkpoint, replaced)
    inputs = ReportInputs(
        test=found["test"],
        val=found["val"],
        zero_shot=found.get("zero_shot_test"),
        curves=read_curves(folder),
        meta=run_meta(checkpoint, folder, payload),
        image_root=root,
    )
    return write_report(inputs, Path(config.output) if config.output else folder / "report", settings)


def run_folder(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to: the folder above ``checkpoints/``, or the checkpoint's own."""
    parent = checkpoint.resolve().parent
    return parent.parent if parent.name == "checkpoints" else parent


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
