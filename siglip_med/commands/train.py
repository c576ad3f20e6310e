"""Fine-tunes a model against conditions: zero-shot first, then training, then the same numbers again."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from torch import Tensor

from siglip_med.config import Builds, Node, flat, instantiate
from siglip_med.data import LabeledData
from siglip_med.errors import UserError
from siglip_med.inference import predict_split, probe_splits
from siglip_med.inference.neighbours import keep_training_cases
from siglip_med.losses import LayeredLoss
from siglip_med.metrics import CHOOSING, Bootstrap, Predictions, RetrievalMetrics, fit_calibration, write_per_image
from siglip_med.models import (
    TwoTower,
    check_same_function,
    checkpoint_payload,
    finalize_checkpoint,
    load_trained,
    model_node,
    read_checkpoint,
    read_trained,
    write_checkpoint,
)
from siglip_med.report.data_card import write_data_card
from siglip_med.report.summary import RunSummary, SplitPredictions
from siglip_med.seals import write_sidecar
from siglip_med.training.checkpointing import BEST
from siglip_med.training.components import Components, ConditionSettings, build_components, build_model
from siglip_med.training.module import FineTuneModule
from siglip_med.training.optim import AdamW, Share
from siglip_med.training.references import (
    FINE_TUNING_METRICS,
    check_coefficients,
    check_optimized,
    check_references,
)
from siglip_med.training.resume import ResumePoint
from siglip_med.training.schedule import CoefficientSchedule
from siglip_med.training.session import checkpoints_of, fit, last_metrics, resume_point, session
from siglip_med.training.settings import RunSettings
from siglip_med.training.texts import PoolChoice, PromptPool, choose_pool


class EvaluationSettings(BaseModel):
    """How the final numbers get their intervals, and what they stand beside.

    Attributes:
        bootstrap: resamples of the cases.
        coverage: of the intervals.
        probe_images: most training images that the linear probe embeds; 0: no probe.
        neighbours: most training images that are kept for the nearest cases; 0: none.
    """

    model_config = ConfigDict(extra="forbid")

    bootstrap: Annotated[int, Field(gt=0, le=1_000_000)]
    coverage: Share
    probe_images: Annotated[int, Field(ge=0)]
    neighbours: Annotated[int, Field(ge=0, le=1_000_000)]


class Settings(RunSettings):
    """Top level of ``conf/train.yaml``.

    Attributes:
        name: of the experiment, in folders and leaderboards.
        optimized_metric: the metric that a sweep reads, or None.
        init_from: a checkpoint of another run, on the same base and split, whose trained weights this run starts
            from, or None.
        fit: whether to train; a run that does not is the report of its base.
        text_pool: ``batch``, ``all`` or ``auto`` (see docs/losses.md).
    """

    name: str
    optimized_metric: str | None
    init_from: str | None
    fit: bool
    text_pool: PoolChoice
    conditions: ConditionSettings
    evaluation: EvaluationSettings
    features: Annotated[Node | None, Builds(LabeledData)] = None
    schedule: Annotated[Node, Builds(CoefficientSchedule)]


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
        metrics: ``<model>/<split>/<metric>`` (model ``zero_shot``, ``tuned``, ``label_frequency`` or ``chance``), and
            those of the last epoch.
        objective: the metric that a sweep optimizes, or None.
        components, module, trainer: what was built.
        zero_shot, tuned: predictions before and after training.
        summary: the numbers with their intervals, for the screen.
        folder: the run folder.
        best: the checkpoint that validation chose; None where a run keeps none.
    """

    metrics: dict[str, float]
    objective: float | None
    components: Components
    module: FineTuneModule
    trainer: pl.Trainer
    zero_shot: SplitPredictions
    tuned: SplitPredictions
    summary: RunSummary
    folder: Path
    best: Path | None


def run(settings: Settings) -> Result:
    """Runs the whole job and leaves its results in the run folder.

    Raises:
        UserError: something that the settings or the data say is wrong.
    """
    folder = Path(settings.paths.output_dir)
    point = check_start(settings)

    # build
    trainer: pl.Trainer = instantiate(settings.trainer, callbacks=settings.callbacks, logger=settings.logger)
    device = trainer.strategy.root_device
    loss, optimizer = instantiate(settings.loss), instantiate(settings.optimizer)
    check_coefficients(loss, settings.schedule, settings.callbacks)
    with session(settings, trainer, point) as begin:
        components = build(settings, device)
        model = components.model
        start = weights_to_start_from(settings, components)
        module = build_module(settings, components, loss, optimizer)
        begin()
        if trainer.is_global_zero:
            model.print_summary()
            save_split(components, folder)
            show_data(components)

        # zero-shot, then fit
        zero_shot = predict(components)
        probe = fit_probe(components, zero_shot, settings.evaluation.probe_images, settings.seed)
        model.load_trainable_state(start, partial=True)  # only now: zero-shot is the base as it was pretrained
        if settings.fit:
            fit(trainer, module, components.data, point, settings)
            best = load_best(trainer, components)
        else:
            best = save_untrained(trainer, module)

        # what validation chose, scored and saved
        model.to(device)  # Lightning left it on the CPU
        tuned = predict(components) if settings.fit or start else zero_shot
        resampling = Bootstrap(settings.evaluation.bootstrap, settings.seed, settings.evaluation.coverage)
        summary = RunSummary(zero_shot, tuned, resampling, probe)
        if trainer.is_global_zero:
            save_results(settings, trainer, summary, best)
            note = keep_training_cases(model, components.data, settings.evaluation.neighbours, settings.seed, folder)
            Console().print(f"  {note}", soft_wrap=True, highlight=False, markup=False)
    metrics = last_metrics(trainer) | summary.metrics()
    objective = optimized_metric(metrics, settings.optimized_metric)
    return Result(metrics, objective, components, module, trainer, zero_shot, tuned, summary, folder, best)


def build(settings: Settings, device: torch.device, model: TwoTower | None = None) -> Components:
    """The model (or a trained one in its place), its data, and the geometry and sentences of the conditions in it.

    Raises:
        UserError: the data, the codes or the model cannot be had as the settings say.
    """
    s = settings
    return build_components(
        build_model(s.model, s.seed) if model is None else model, s.data, s.features, s.conditions, s.seed, device
    )


def show(result: Result) -> float | None:
    """Prints the table, where everything is, and the next commands; returns what a sweep optimizes."""
    if result.trainer.is_global_zero:
        result.summary.print(result.folder, result.best)
    return result.objective


def check_start(settings: Settings) -> ResumePoint | None:
    """Checks what the settings say of each other, and reads the checkpoints that a run starts from.

    A wrong or dangerous file stops here, before any data is read.

    Returns:
        The run that goes on; None for a new one.

    Raises:
        UserError: something that is monitored will not be there, a run has two starts, or one cannot be read.
    """
    check_references(settings, FINE_TUNING_METRICS)
    check_optimized(settings.optimized_metric, FINE_TUNING_METRICS)
    if settings.resume is not None and not settings.fit:
        raise UserError("resume and fit=false: a run that does not train has nothing to go on with")
    if settings.resume is not None and settings.init_from is not None:
        raise UserError("resume and init_from: a run either goes on from its own checkpoint or starts from another's")
    if settings.init_from is not None:
        node = model_node(read_checkpoint(settings.init_from)["siglip_med"], settings.init_from)
        check_same_function(node, settings.model, settings.init_from)
    return resume_point(settings)


def weights_to_start_from(settings: Settings, components: Components) -> dict[str, Tensor]:
    """The trained weights of ``init_from``; none without it.

    Raises:
        UserError: it has another base or trained what this run does not, or this run would be tested on images that
            it was trained on.
    """
    if settings.init_from is None:
        return {}
    weights, payload = read_trained(components.model, settings.init_from, partial=True)
    components.check_split(payload["split_hash"], Path(settings.init_from))
    return weights


def build_module(settings: Settings, components: Components, loss: LayeredLoss, optimizer: AdamW) -> FineTuneModule:
    """The LightningModule of a fine-tuning run, and what its checkpoints will say of it."""
    data, model = components.data, components.model
    dissimilarity = torch.from_numpy(components.dissimilarity).float()
    pool = choose_pool(settings.text_pool, model, len(components.conditions.names), settings.data["batch_size"])
    module = FineTuneModule(
        model,
        loss,
        optimizer,
        PromptPool(components.training_prompts, model.tokenize, pool, settings.seed),
        evaluation_prompts=components.prompt_ensemble,
        dissimilarity=dissimilarity,
        condition_counts=torch.as_tensor(data.drawn_counts()),
        primary=torch.tensor(data.table.frame["primary"].to_numpy(copy=True)),
        metrics=RetrievalMetrics(dissimilarity, components.conditions.chapters, components.conditions.blocks),
        seed=settings.seed,
    )
    module.checkpoint_payload = checkpoint_payload(
        model,
        config=settings.model_dump(),
        conditions=components.conditions.names,
        codes=components.conditions.codes,
        prompts=components.evaluation_prompts,
        split_hash=data.split.hash,
        account=components.split_report.account(),
        provenance=data.table.provenance,
    )
    return module


def save_split(components: Components, folder: Path) -> None:
    """Writes which image went where, and which were left out."""
    data = components.data
    folder.mkdir(parents=True, exist_ok=True)
    data.split.save(folder / "split.csv")
    write_sidecar(folder / "split.csv")
    components.split_report.save(folder / "split_report.json")
    write_data_card(components.split_report, folder)
    data.save_bad_images(folder / "bad_images.csv")


def show_data(components: Components) -> None:
    """Says what became of every row of the data, and what was decided about the prompts, before anything is trained."""
    console = Console()
    for line in (*components.split_report.account(), *components.prompt_notes):
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


def predict(components: Components) -> SplitPredictions:
    """Scores validation and test with the model as it is."""
    return SplitPredictions(predict_part(components, "val"), predict_part(components, "test"))


def predict_part(components: Components, split: str, progress: bool = True) -> Predictions:
    """Scores one split with the model as it is; arguments as in `predict_split`."""
    c = components
    return predict_split(c.model, c.prompt_ensemble, c.data, c.conditions, c.dissimilarity, split, progress)


def fit_probe(components: Components, zero_shot: SplitPredictions, images: int, seed: int) -> SplitPredictions | None:
    """A linear probe of the base's image features, before anything of it is trained.

    Args:
        components: with the base as it was pretrained.
        zero_shot: its predictions.
        images: most training images that are embedded; 0: no probe.
        seed: chooses them.
    """
    if not images:
        return None
    frames = (zero_shot.val, zero_shot.test)
    return SplitPredictions(*probe_splits(components.model, components.data, frames, images, seed))


def load_best(trainer: pl.Trainer, components: Components) -> Path | None:
    """Reloads the checkpoint that validation chose; None where a run keeps no checkpoint.

    Raises:
        UserError: the run was to keep one, and no validation chose any.
    """
    checkpoints = checkpoints_of(trainer)
    if checkpoints is None:
        return None
    if not checkpoints.best_model_path:
        raise UserError(
            "the run ended without a validation, so no checkpoint was chosen: lower trainer.val_check_interval"
        )
    trainer.strategy.barrier("best checkpoint written")
    best = Path(checkpoints.best_model_path)
    load_trained(components.model, best)
    return best


def save_untrained(trainer: pl.Trainer, module: FineTuneModule) -> Path | None:
    """The checkpoint of a run that does not train, for the other commands; None where a run keeps none."""
    checkpoints = checkpoints_of(trainer)
    if checkpoints is None:
        return None
    path = checkpoints.folder / BEST
    if trainer.is_global_zero:
        checkpoints.folder.mkdir(parents=True, exist_ok=True)
        state = {f"model.{name}": value for name, value in module.model.trainable_state().items()}
        write_checkpoint({"global_step": 0, "state_dict": state, "siglip_med": module.checkpoint_payload}, path)
    return path


def save_results(settings: Settings, trainer: pl.Trainer, summary: RunSummary, best: Path | None) -> None:
    """Writes predictions, metrics.json, the dashboards, and what the best checkpoint says of its results."""
    # Only now: it draws, and a run should not wait for matplotlib before its first step.
    from siglip_med.report.tensorboard import custom_scalar_layout, write_dashboards

    save_scores(Path(settings.paths.output_dir), summary, settings.name, settings.seed, best)
    hyperparameters: dict[str, Any] = flat(settings, left_out=("paths", "callbacks", "logger"))
    results = summary.metrics()
    shown = dict.fromkeys((CHOOSING, "r_at_1", "r_at_5", "icd_distance_all"))
    headline = {f"hp/{split}/{name}": results[f"tuned/{split}/{name}"] for name in shown for split in ("val", "test")}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(hyperparameters, metrics=headline)
            logger.experiment.add_custom_scalars(custom_scalar_layout())
            write_dashboards(logger.experiment, summary.tuned.test, global_step=trainer.global_step)
        else:
            logger.log_hyperparams(hyperparameters)
            logger.log_metrics(headline, step=trainer.global_step)
        logger.finalize("success")


def save_scores(folder: Path, summary: RunSummary, name: str, seed: int, checkpoint: Path | None) -> None:
    """Writes predictions and metrics.json of a run, and what its checkpoint says of its results.

    Args:
        folder: of the run.
        summary: its numbers.
        name: of the experiment.
        seed: of the run.
        checkpoint: the one that gave the numbers, or None.
    """
    for part, predictions in {
        "val": summary.tuned.val,
        "test": summary.tuned.test,
        "zero_shot_val": summary.zero_shot.val,
        "zero_shot_test": summary.zero_shot.test,
    }.items():
        predictions.save(folder / "predictions" / part)
        write_per_image(predictions, folder / "predictions" / part)
    if summary.probe is not None:
        summary.probe.test.save(folder / "predictions" / "probe_test")
    summary.save(folder / "metrics.json", name, seed)
    if checkpoint is not None:
        calibration = fit_calibration(summary.tuned.val)
        finalize_checkpoint(
            checkpoint,
            metrics=summary.for_model_card(),
            baselines=summary.baselines_for_model_card(),
            calibration={"temperature": calibration.temperature, "bias": calibration.bias},
        )


def optimized_metric(metrics: dict[str, float], name: str | None) -> float | None:
    """The number that a sweep optimizes.

    Raises:
        UserError: it is a metric of the test split, the run has none of that name, or its value is not finite.
    """
    if name is None:
        return None
    if "/test/" in name:
        raise UserError(
            f"optimized_metric={name}: the test split never chooses anything; take {name.replace('/test/', '/val/')}"
        )
    if name not in metrics:
        raise UserError(f"optimized_metric={name}: the run has no such metric; it has {', '.join(sorted(metrics))}")
    if not math.isfinite(metrics[name]):
        raise UserError(f"optimized_metric={name}: the value is {metrics[name]}")
    return metrics[name]
