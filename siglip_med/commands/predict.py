"""Ranks conditions for photographs: a table on the screen, predictions.csv and predictions.json."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from siglip_med.core.case_pooling import Average, CasePooling
from siglip_med.core.errors import UserError
from siglip_med.core.outside import Console
from siglip_med.core.provenance import sentence
from siglip_med.inference import Classifier, PredictionRun, find_images, load
from siglip_med.inference.cases import by_pattern, by_table
from siglip_med.inference.photographs import Averaged
from siglip_med.inference.ranking import Ranker
from siglip_med.inference.views import MOST
from siglip_med.models import Device


class Settings(BaseModel):
    """Top level of ``conf/predict.yaml``.

    Attributes:
        checkpoint: of a fine-tuning run; nothing else of the run is needed. None: an ensemble answers.
        ensemble: run folders, checkpoints or exports whose scores are averaged, or None.
        average: how the calibrated scores of an ensemble become one.
        tta: views of each photograph whose scores are averaged, see `siglip_med.inference.views`; 1: as it is.
        images: files and folders.
        top_k: conditions shown for an image.
        batch_size: images encoded at once.
        device: where the model runs.
        output_dir: folder that gets both files.
        base: path of the base if it moved, as in `load_model`.
        trust: dotted names of code of one's own that the checkpoint may build, e.g. ``[my_towers.mine]``.
        scores: whose scores rank: ``refit``, ``prompts``, ``both`` averaged; ``auto``: the refit's where the checkpoint
            holds one.
        case_pattern: regular expression with one group, matched at the start of a file name: the case; None: no cases.
        case_table: a CSV with a column ``image`` that says the same, or None.
        case_column: its column of cases.
        pooling: how the photographs of a case become one answer.
        explain: whether to write a page of where the model looks and which training cases are near.
        explain_most: photographs on that page.
    """

    model_config = ConfigDict(extra="forbid")

    checkpoint: str | None
    ensemble: list[str] | None = None
    average: Average = "mean_logit"
    tta: Annotated[int, Field(ge=1, le=MOST)] = 1
    images: str | list[str]
    top_k: PositiveInt
    batch_size: PositiveInt
    device: Device
    output_dir: str
    base: str | dict[str, str] | None
    trust: list[str] = []
    scores: Averaged = "auto"
    case_pattern: str | None = None
    case_table: str | None = None
    case_column: str = "case"
    pooling: CasePooling = "mean_logit"
    explain: bool = False
    explain_most: PositiveInt = 20


@dataclass(frozen=True)
class Result:
    """The differentials, the two files that hold them, the page that was asked for, and what that page lacks."""

    predictions: PredictionRun
    table: Path
    tree: Path
    page: Path | None = None
    notes: tuple[str, ...] = ()


def run(settings: Settings) -> Result:
    """Loads a checkpoint, ranks its conditions for every image found, and writes both files.

    Raises:
        UserError: the checkpoint, its base or the device is not available, or no image can be read.
    """
    pattern, table = settings.case_pattern, settings.case_table
    how, both = (settings.base, settings.device, settings.trust), settings.scores == "both"
    if (settings.checkpoint is None) == (settings.ensemble is None):
        raise UserError("give either checkpoint=logs/…/checkpoints/best.ckpt or ensemble=[runA,runB]")
    if settings.average != "mean_logit" and settings.ensemble is None and not both:
        raise UserError("average=… says how an ensemble answers: give ensemble=[runA,runB] too")
    if settings.explain and (settings.ensemble is not None or both):
        raise UserError("explain=true shows where one model looks: leave ensemble=… and scores=both out")
    if pattern is not None and table is not None:
        raise UserError("case_pattern and case_table: give one of them")
    found = find_images(settings.images)  # a wrong path, pattern or table stops here, before the model is loaded
    cases = {} if pattern is None else by_pattern(found, pattern)
    if table is not None:
        cases = by_table(found, Path(table), settings.case_column)
    model: Ranker
    if settings.ensemble is None and settings.scores != "both":
        model = load(str(settings.checkpoint), *how, settings.scores)
    else:
        from siglip_med.runs.ensembles import load_ensemble  # only now: it takes seconds

        model = load_ensemble(settings.ensemble or [str(settings.checkpoint)], *how, settings.scores, settings.average)
    predictions = model.predict(found, settings.top_k, settings.batch_size, cases, settings.pooling, settings.tta)
    folder = Path(settings.output_dir)
    files = predictions.save(folder)
    if not (settings.explain and isinstance(model, Classifier)):
        return Result(predictions, *files)
    # only now: drawing takes its library a while to load
    from siglip_med.report.explaining import explain

    page, notes = explain(model, predictions, Path(str(settings.checkpoint)), folder, settings.explain_most)
    return Result(predictions, *files, page, notes)


def show(result: Result) -> None:
    """Prints the table, what could not be read, and where the files are."""
    console, made = Console(), result.predictions.provenance
    if made is not None and made.kind == "drawings":
        console.print(sentence(made), soft_wrap=True, highlight=False)
    console.print(result.predictions.table())
    others = {"refit": "; scores=prompts ranks by the conditions' sentences"}.get(result.predictions.scores, "")
    console.print(f"ranked by the scores of the {result.predictions.scores}{others}", soft_wrap=True, highlight=False)
    if not result.predictions.calibrated:
        console.print("The checkpoint holds no calibration: read the scores as an order, not as probabilities.")
    for line in result.predictions.notes:
        console.print(line, soft_wrap=True, highlight=False)
    console.print(result.predictions.counts(), soft_wrap=True, highlight=False)
    if result.predictions.cases:
        several = len(result.predictions.differentials), len(result.predictions.cases)
        console.print("{:,} photographs of {:,} cases; a case's rows stand below".format(*several), highlight=False)
    for _, reason in result.predictions.unreadable:
        console.print(f"could not read {reason}", soft_wrap=True, highlight=False)
    console.print(f"wrote {result.table} and {result.tree}", soft_wrap=True, highlight=False)
    if result.page is not None:
        for line in (*result.notes, f"where the model looks: {result.page}"):
            console.print(line, soft_wrap=True, highlight=False)
