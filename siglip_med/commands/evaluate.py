"""Reports on a run, compares several, or validates one on another data set."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict
from rich.table import Table as ScreenTable

from siglip_med.core.case_pooling import Average
from siglip_med.core.config import Builds, Node, instantiate
from siglip_med.core.errors import UserError
from siglip_med.core.outside import Console
from siglip_med.data.external import ExternalData
from siglip_med.data.splitting.report import SplitReport
from siglip_med.inference.photographs import Averaged
from siglip_med.metrics import Predictions
from siglip_med.models import (
    Device,
    read_checkpoint,
)
from siglip_med.report import ReportInputs, ReportSettings, RunMeta, read_curves, write_report
from siglip_med.report.comparison import compare_runs
from siglip_med.report.data_card import DATA_CARD
from siglip_med.report.differences import PREDICTIONS
from siglip_med.report.evidence import BESIDE
from siglip_med.report.explaining import explain_mistakes
from siglip_med.report.inputs import Explanation
from siglip_med.report.page import Table
from siglip_med.runs.derived import Derivation, Derived, derive_crm, derive_interpolation
from siglip_med.runs.ensembles import join_runs
from siglip_med.runs.external import read_external, validate_external
from siglip_med.runs.folder import run_folder
from siglip_med.runs.settings import PathSettings
from siglip_med.runs.stored import OpenedRun, image_root, open_run, predict_run, run_meta, saved_predictions


class Settings(BaseModel):
    """Top level of ``conf/evaluate.yaml``.

    Attributes:
        checkpoint: of the run to report on, or None.
        compare: two run folders or more, or None; the last is what the others are held against.
        ensemble: two run folders or more of one split that are judged as one model, or None.
        average: how the calibrated scores of an ensemble become one.
        scores: whose the scores of an ensemble are; ``auto``: the runs' answers.
        external: another data set to validate the checkpoint on, or None.
        data: keys of the run's ``data`` config to replace, for a run that was trained elsewhere.
        base: path of the base model if it moved; for a dual encoder a mapping with ``vision`` and ``text``.
        trust: dotted names of code of one's own that the checkpoint may build, e.g. ``[my_towers.mine]``.
        device: where the model runs, if predictions have to be made.
        derive: better answers from the run without training: ``interpolation`` takes the weights between base and
            trained model that validation likes best, ``crm`` ranks by expected ICD distance.
        recompute: whether to predict again where the run folder holds predictions of this checkpoint.
        output: folder of the report; None for ``<run folder>/report``, and of an external set
            ``<run folder>/external/<name>``.
        checklist: whether to write ``checklist.md`` beside the report: TRIPOD+AI, filled in as far as a program can.
    """

    model_config = ConfigDict(extra="forbid")

    checkpoint: str | None
    compare: list[str] | None
    ensemble: list[str] | None = None
    average: Average = "mean_logit"
    scores: Averaged = "auto"
    external: Annotated[Node | None, Builds(ExternalData, given=("image",))] = None
    data: dict[str, Any]
    base: str | dict[str, str] | None
    trust: list[str] = []
    device: Device
    derive: Derivation | None
    recompute: bool
    output: str | None
    checklist: bool = False
    report: Node
    paths: PathSettings


@dataclass(frozen=True)
class Result:
    """The page that was written, of several runs the table of their differences, of an external set what was found."""

    page: Path
    differences: Table | None = None
    lines: tuple[str, ...] = ()


def run(settings: Settings) -> Result:
    """Writes the report or the comparison that is asked for.

    Raises:
        UserError: the settings, the checkpoint or a run folder is wrong.
    """
    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    report: ReportSettings = instantiate(settings.report)
    if settings.checklist and (settings.external or settings.compare or settings.ensemble):
        raise UserError(
            "checklist=true is filled in of one run: give checkpoint=…/best.ckpt alone, without external, compare and "
            "ensemble"
        )
    for name, usual in (("average", "mean_logit"), ("scores", "auto")):
        if settings.ensemble is None and getattr(settings, name) != usual:
            raise UserError(f"{name}=… says how an ensemble answers: give ensemble=[runA,runB] too")
    if settings.ensemble is not None:
        return report_ensemble([Path(folder).expanduser() for folder in settings.ensemble], settings, report)
    if settings.external is not None:
        return validate(settings, settings.external, report)
    if settings.checkpoint is not None and settings.compare is None:
        return Result(report_run(Path(settings.checkpoint), settings, report))
    if settings.compare is None or settings.checkpoint is not None:
        raise UserError(
            "give one of checkpoint=logs/…/checkpoints/best.ckpt, compare=[runA,runB] and ensemble=[runA,runB]"
        )
    if len(settings.compare) < 2:
        raise UserError(f"compare needs two run folders or more, not {len(settings.compare)}: compare=[runA,runB]")
    output = Path(settings.output or settings.paths.output_dir)
    return Result(*compare_runs([Path(folder) for folder in settings.compare], output, report.resampling))


def show(result: Result) -> None:
    """Prints the differences, if there are any, and where the page is."""
    console = Console(width=max(Console().width, 170))
    if result.differences is not None:
        shown = ScreenTable(title=result.differences.caption)
        for position, heading in enumerate(result.differences.columns):
            shown.add_column(heading, justify="left" if position < 2 else "right", overflow="fold")
        for row in result.differences.rows:
            shown.add_row(*row)
        console.print(shown)
    for line in (*result.lines, f"report: {result.page}"):
        console.print(f"  {line}", soft_wrap=True, highlight=False)


def validate(settings: Settings, external: Node, report: ReportSettings) -> Result:
    """Validates ``settings.checkpoint`` on another data set; see `validate_external`."""
    s = settings
    if s.checkpoint is None or s.compare is not None or s.derive is not None:
        raise UserError("external=… validates one checkpoint=…/best.ckpt; leave compare and derive out")
    place = None if s.output is None else Path(s.output)
    found = validate_external(opened(Path(s.checkpoint), s), external, report.resampling, place)
    return Result(found.page, lines=tuple(found.findings.lines()))


def report_ensemble(folders: list[Path], settings: Settings, report: ReportSettings) -> Result:
    """Reports on runs as one model, with its predictions beside the report, and holds each run against it.

    Raises:
        UserError: another report is asked for too, or the runs do not belong together, see `join_runs`.
    """
    s = settings
    if any((s.checkpoint, s.compare, s.external, s.derive, s.data, s.base, s.trust, s.recompute, report.images)):
        raise UserError(
            "ensemble=[runA,runB] joins the predictions in the run folders: leave checkpoint, compare, external, "
            "derive, data, base, trust, recompute and report.images out"
        )
    found, notes = join_runs(folders, s.average, s.scores)
    place, first = Path(s.output or s.paths.output_dir), folders[0]
    for name, predictions in found.items():
        predictions.save(place / PREDICTIONS / name)
    facts = {"ensemble": found["test"].meta["scores"], "average": notes[1]}
    facts |= dict(note.split(": ", 1) for note in notes if note.startswith("baselines: "))
    inputs = ReportInputs(
        test=found["test"],
        val=found["val"],
        zero_shot=found.get("zero_shot_test"),
        probes={name: found[part] for name, part in BESIDE.items() if part in found},
        meta=RunMeta(f"an ensemble of {len(folders)} runs", facts),
        data_card=first / DATA_CARD if (first / DATA_CARD).is_file() else None,
        split=SplitReport.load(first / "split_report.json"),
    )
    page = write_report(inputs, place, report)
    comparison, differences = compare_runs([*folders, place], place, report.resampling)
    return Result(page, differences, (*notes, f"each run against the ensemble: {comparison}"))


def report_run(checkpoint: Path, settings: Settings, report: ReportSettings) -> Path:
    """Writes the report of one checkpoint.

    Args:
        checkpoint: of a fine-tuning run.
        settings: paths of its data and its base, and of the report.
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
        found = predict_run(opened(checkpoint, settings))
    root = Path(report.image_root) if report.image_root else None
    if report.images and root is None:
        root = image_root(checkpoint, cache, settings.data, settings.trust)
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
        probes={name: found[part] for name, part in BESIDE.items() if part in found},
        curves=read_curves(folder),
        meta=meta,
        image_root=root if report.images else None,
        image_bits=payload["image_bits"],
        data_card=folder / DATA_CARD if (folder / DATA_CARD).is_file() else None,
        explanations=explanations,
        explanation_notes=notes,
        external=read_external(folder),
        split=SplitReport.load(folder / "split_report.json"),
    )
    place = folder if derived is None else derived.folder
    output = Path(settings.output) if settings.output else place / "report"
    return write_report(inputs, output, report, settings.checklist)


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
    found, notes = explain_mistakes(checkpoint, settings.base, settings.device, test, root, settings.trust)
    for note in notes:
        Console().print(f"  {note}", soft_wrap=True, highlight=False)
    return found, notes


def derive(
    settings: Settings, checkpoint: Path, folder: Path, found: dict[str, Predictions], report: ReportSettings
) -> Derived:
    """Derives ``settings.derive`` from a run, in a folder of its own below the run's.

    Args:
        settings: of the command.
        checkpoint: of the run.
        folder: of the run.
        found: its predictions.
        report: of the intervals.
    """
    if settings.derive == "crm":
        return derive_crm(folder, found)
    return derive_interpolation(folder, opened(checkpoint, settings), report)


def opened(checkpoint: Path, settings: Settings) -> OpenedRun:
    """The run of a checkpoint with its base and data, where the settings say that they are."""
    s = settings
    return open_run(checkpoint, s.paths.cache_dir, s.data, s.base, s.device, s.trust)
