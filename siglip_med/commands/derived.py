"""Better answers from a trained run without training: a run folder of its own below the run's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from siglip_med.errors import UserError
from siglip_med.inference import predict_split
from siglip_med.metrics import CHOOSING, Predictions, crm, fit_calibration, headline_metrics
from siglip_med.models import DualEncoder, finalize_checkpoint, interpolated, read_checkpoint, write_checkpoint
from siglip_med.report.comparison import PREDICTIONS
from siglip_med.training.components import Components

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
    predictions = {name: crm(one) for name, one in found.items()}
    return Derived(_saved(folder / "crm", predictions), predictions)


def derive_interpolation(
    folder: Path,
    checkpoint: Path,
    components: Components,
    base: Mapping[str, Tensor],
    before: Mapping[str, Predictions],
) -> Derived:
    """Takes the weights between base and trained model that validation likes best, and writes them as a checkpoint.

    Args:
        folder: of the run.
        checkpoint: of the run.
        components: the trained model with the run's data.
        base: its trainable state before training.
        before: zero-shot predictions, kept beside the new ones.

    Raises:
        UserError: what was trained has no straight line back to a base that can be used.
    """
    model = components.model
    if isinstance(model, DualEncoder):
        raise UserError("derive=interpolation: a dual encoder's heads start from nothing: there is no base to mix in")
    trained = {name: value.clone() for name, value in model.trainable_state().items()}
    values = {}
    for share in track(SHARES, description="interpolating", transient=True):
        model.load_trainable_state(interpolated(base, trained, share))
        values[share] = headline_metrics(_predict(components, "val"))[CHOOSING]
    chosen = max(SHARES, key=lambda share: (values[share], share))
    _print(values, chosen)
    state = interpolated(base, trained, chosen)
    model.load_trainable_state(state)
    predictions = {name: _predict(components, name) for name in ("val", "test")} | dict(before)
    place = _saved(folder / "interpolation", predictions)
    content = read_checkpoint(checkpoint)
    content["state_dict"] = {f"model.{name}": value for name, value in state.items()}
    target = place / "checkpoints" / "best.ckpt"
    target.parent.mkdir(exist_ok=True)
    write_checkpoint(content, target)
    fit = fit_calibration(predictions["val"])
    finalize_checkpoint(
        target,
        metrics={name: {"estimate": value} for name, value in headline_metrics(predictions["test"]).items()},
        calibration={"temperature": fit.temperature, "bias": fit.bias},
    )
    return Derived(place, predictions)


def _predict(components: Components, split: str) -> Predictions:
    c = components
    return predict_split(c.model, c.prompt_ensemble, c.data, c.conditions, c.dissimilarity, split, progress=False)


def _saved(folder: Path, predictions: Mapping[str, Predictions]) -> Path:
    for name, one in predictions.items():
        one.save(folder / PREDICTIONS / name)
    return folder


def _print(values: Mapping[float, float], chosen: float) -> None:
    table = Table(title="share of the way from the base to the trained weights, on validation")
    for heading in ("share", f"val {CHOOSING.upper()}", ""):
        table.add_column(heading, justify="right")
    for share, value in values.items():
        table.add_row(f"{share:.1f}", f"{value:.4f}", "chosen" if share == chosen else "")
    Console().print(table)
