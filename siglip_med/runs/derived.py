"""Better answers from a trained run without training: a run folder of its own below the run's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

from siglip_med.core.errors import UserError
from siglip_med.core.outside import Console
from siglip_med.core.progress import tracked
from siglip_med.metrics import CHOOSING, Predictions, crm, headline_metrics
from siglip_med.models import DualEncoder, interpolated, read_checkpoint, write_checkpoint
from siglip_med.report import ReportSettings
from siglip_med.report.differences import PREDICTIONS
from siglip_med.report.evidence import BESIDE, PROMPTS
from siglip_med.report.summary import RunSummary
from siglip_med.runs.results import save_scores
from siglip_med.runs.scoring import answers, familiar, predict, predict_part, refit
from siglip_med.runs.stored import OpenedRun

Derivation = Literal["interpolation", "crm"]
SHARES = tuple(round(0.1 * step, 1) for step in range(11))
"""Of the way from the base to the trained weights, each tried on validation."""


@dataclass(frozen=True)
class Derived:
    """What was derived.

    Attributes:
        folder: ``<run>/<derivation>``, laid out like a run: predictions, and a checkpoint where the weights changed.
        predictions: by name, as a run folder has them.
    """

    folder: Path
    predictions: dict[str, Predictions]


def derive_crm(folder: Path, found: Mapping[str, Predictions]) -> Derived:
    """Ranks by expected ICD distance in place of the scores; the weights stay, so there is no checkpoint.

    Args:
        folder: of the run.
        found: its predictions.
    """
    place, predictions = folder / "crm", {name: crm(one) for name, one in found.items()}
    for name, one in predictions.items():
        one.save(place / PREDICTIONS / name)
    return Derived(place, predictions)


def derive_interpolation(folder: Path, run: OpenedRun, report: ReportSettings) -> Derived:
    """Takes the weights between base and trained model that validation likes best, and writes them as a checkpoint.

    Args:
        folder: of the run.
        run: read again.
        report: resamples, coverage and seed of the intervals.

    Raises:
        UserError: what was trained has no straight line back to a base that can be used.
    """
    components, trained, model = run.components, run.trained, run.components.model
    if isinstance(model, DualEncoder):
        raise UserError("derive=interpolation: a dual encoder's heads start from nothing: there is no base to mix in")
    base = {name: value.clone() for name, value in model.trainable_state().items()}
    before = predict(components)
    values: dict[float, float] = {}
    for share in tracked(SHARES, "interpolating", "shares"):
        model.load_trainable_state(interpolated(base, trained, share))
        values[share] = headline_metrics(predict_part(components, "val"))[CHOOSING]
    chosen = max(SHARES, key=lambda share: (values[share], share))
    _print(values, chosen)
    state = interpolated(base, trained, chosen)
    model.load_trainable_state(state)
    prompts, config = predict(components), run.payload["config"]
    fitted = None
    if run.refit is not None:  # of other weights: fitted again on these
        fitted, _ = refit(components, prompts, config["evaluation"]["refit_images"], config["seed"])
    rule, after = familiar(components, fitted, answers(fitted, prompts))
    place = folder / "interpolation"
    target = place / "checkpoints" / "best.ckpt"
    target.parent.mkdir(parents=True, exist_ok=True)
    content = read_checkpoint(run.checkpoint)
    write_checkpoint(content | {"state_dict": {f"model.{name}": value for name, value in state.items()}}, target)
    summary = RunSummary(before, after, report.resampling, prompts=None if fitted is None else prompts)
    save_scores(place, summary, f"{config['name']}, interpolated", config["seed"], target, fitted, rule)
    parts = {"val": after.val, "test": after.test, "zero_shot_val": before.val, "zero_shot_test": before.test}
    parts |= {} if fitted is None else {BESIDE[PROMPTS]: prompts.test}
    return Derived(place, parts)


def _print(values: Mapping[float, float], chosen: float) -> None:
    table = Table(title="share of the way from the base to the trained weights, on validation")
    for heading in ("share", f"val {CHOOSING.upper()}", ""):
        table.add_column(heading, justify="right")
    for share, value in values.items():
        table.add_row(f"{share:.1f}", f"{value:.4f}", "chosen" if share == chosen else "")
    Console().print(table)
