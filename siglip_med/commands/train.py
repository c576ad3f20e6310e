"""Fine-tunes a model against conditions: zero-shot first, then training, then the same numbers again."""

import math
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
from torch import Tensor

from siglip_med.core.config import instantiate
from siglip_med.core.errors import UserError
from siglip_med.core.outside import Console
from siglip_med.inference.neighbours import keep_training_cases
from siglip_med.metrics import Bootstrap
from siglip_med.models import (
    check_same_function,
    model_node,
    read_checkpoint,
    read_trained,
)
from siglip_med.report.summary import RunSummary, SplitPredictions
from siglip_med.runs.building import build, build_module
from siglip_med.runs.components import Components
from siglip_med.runs.cross_checks import (
    FINE_TUNING_METRICS,
    check_coefficients,
    check_optimized,
    check_own_metrics,
    check_references,
)
from siglip_med.runs.results import load_best, save_look_alikes, save_results, save_split, save_untrained
from siglip_med.runs.resume import ResumePoint
from siglip_med.runs.scoring import Base, answers, familiar, predict, refit
from siglip_med.runs.session import fit, last_metrics, resume_point, session
from siglip_med.runs.settings import FineTuneSettings as Settings
from siglip_med.training.module import FineTuneModule


@dataclass(frozen=True)
class Result:
    """Results of a run.

    Attributes:
        metrics: ``<model>/<split>/<metric>`` (model ``zero_shot``, ``tuned``, ``label_frequency`` or ``chance``), and
            those of the last epoch.
        objective: the metric that a sweep optimizes, or None.
        components: model, data, geometry and prompts.
        module: the LightningModule that was trained.
        trainer: the Trainer that trained it.
        zero_shot: predictions before training.
        tuned: predictions after training; those of the refit where there is one.
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
        UserError: a setting or the data is wrong.
    """
    folder = Path(settings.paths.output_dir)
    point = check_start(settings)

    # build
    trainer: pl.Trainer = instantiate(settings.trainer, callbacks=settings.callbacks, logger=settings.logger)
    device = trainer.strategy.root_device
    loss, optimizer = instantiate(settings.loss), instantiate(settings.optimizer)
    own = {name: instantiate(node) for name, node in settings.evaluation.metrics.items()}
    check_own_metrics(own)
    check_coefficients(loss, settings.schedule, settings.callbacks)
    with session(settings, trainer, point) as begin:
        components = build(settings, device)
        model = components.model
        start = weights_to_start_from(settings, components)
        module = build_module(settings, components, loss, optimizer)
        begin()
        if trainer.is_global_zero:
            Console().print(model.summary())
            save_split(components, folder)
            show_data(components)

        # zero-shot, then fit
        base = Base.judge(components, settings.evaluation.probe_images, settings.seed)
        model.load_trainable_state(start, partial=True)  # only now: zero-shot is the base as it was pretrained
        if settings.fit:
            fit(trainer, module, components.data, point, settings)
            best = load_best(trainer, components)
        else:
            best = save_untrained(trainer, module)

        # what validation chose, scored and saved
        model.to(device)  # Lightning left it on the CPU
        prompts = predict(components) if settings.fit or start else base.zero_shot
        fitted = embedded = None
        if settings.refit == "kernel":
            fitted, embedded = refit(components, prompts, settings.evaluation.refit_images, settings.seed)
        rule, tuned = familiar(components, fitted, answers(fitted, prompts))
        resampling = Bootstrap(settings.evaluation.bootstrap, settings.seed, settings.evaluation.coverage)
        zero_shot, prompts, tuned = map(base.beside, (base.zero_shot, prompts, tuned))
        beside = None if fitted is None else prompts
        summary = RunSummary(zero_shot, tuned, resampling, base.probes(), own, base.look_alikes, beside)
        if trainer.is_global_zero:
            if base.look_alikes is not None:
                save_look_alikes(components, base.look_alikes, folder)
            save_results(settings, trainer, summary, best, fitted, rule)
            most = settings.evaluation.neighbours
            note = keep_training_cases(model, components.data, most, settings.seed, folder, embedded)
            Console().print(f"  {note}", soft_wrap=True, highlight=False)
    metrics = last_metrics(trainer) | summary.metrics()
    objective = optimized_metric(metrics, settings.optimized_metric)
    return Result(metrics, objective, components, module, trainer, zero_shot, tuned, summary, folder, best)


def show(result: Result) -> float | None:
    """Prints the table, where everything is, and the next commands; returns what a sweep optimizes."""
    if result.trainer.is_global_zero:
        result.summary.print(result.folder, result.best)
    return result.objective


def check_start(settings: Settings) -> ResumePoint | None:
    """Checks settings that depend on each other, and reads the checkpoints that a run starts from.

    A wrong or dangerous file stops here, before any data is read.

    Returns:
        The run to resume; None for a new one.

    Raises:
        UserError: something that is monitored will not be there, a run has two starts, or one cannot be read.
    """
    check_references(settings, FINE_TUNING_METRICS)
    check_optimized(settings.optimized_metric, FINE_TUNING_METRICS)
    if settings.resume is not None and not settings.fit:
        raise UserError("resume and fit=false: a run that does not train has nothing to resume")
    if settings.resume is not None and settings.init_from is not None:
        raise UserError("resume and init_from: a run either resumes from its own checkpoint or starts from another's")
    if settings.init_from is not None:
        node = model_node(read_checkpoint(settings.init_from)["siglip_med"], settings.init_from, trust=settings.trust)
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


def show_data(components: Components) -> None:
    """Prints what became of every row of the data, and what was decided about the prompts, before training."""
    console = Console()
    for line in (*components.split_report.account(), *components.prompt_notes):
        console.print(f"  {line}", soft_wrap=True, highlight=False)


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
