"""The schedule of the loss's coefficients: knots with straight lines between them, a pure function of the step."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from pydantic import PositiveFloat

from siglip_med.core.errors import UserError
from siglip_med.training.callbacks import keeps_step


class CoefficientSchedule:
    """Piecewise linear coefficients, constant before the first and after the last knot of each.

    Attributes:
        names: the coefficients that the schedule gives.
        unit: what positions mean.
        span: positions in one run, for ``unit="fraction"``.
    """

    def __init__(
        self,
        knots: Mapping[str, Mapping[float, float]],
        unit: Literal["step", "fraction"] = "step",
        span: PositiveFloat = 1.0,
    ) -> None:
        """Checks and orders the knots.

        Args:
            knots: position -> value of each coefficient; keys may be written as text.
            unit: with ``step``, a position is an optimizer step, whatever the run's length; with ``fraction``, it
                divided by ``span`` is a fraction of the run, so the same knots stretch or shrink with it.
            span: the position that is the end of the run with ``unit="fraction"``; with ``unit="step"`` it changes
                nothing. ``schedule=layered`` has 2500, the steps that its knots were written for.

        Raises:
            UserError: a knot is not a number, negative, given twice, or beyond the run; or there is none.
        """
        if not knots:
            raise UserError("schedule.knots is empty: give at least one coefficient, such as alpha: {0: 0.5}")
        if unit not in ("step", "fraction"):
            raise UserError(f"schedule.unit: {unit!r} must be step or fraction")
        self.unit, self.span = unit, _number("schedule.span", span)
        if self.span == 0:
            raise UserError("schedule.span: 0 must be positive")
        self._curves = {str(name): _curve(str(name), points) for name, points in knots.items()}
        if unit == "fraction":
            for name, (positions, _) in self._curves.items():
                if positions[-1] > self.span:
                    raise UserError(
                        f"schedule.knots.{name}: with unit fraction, positions end at the span of {self.span:g}, "
                        f"and one is {positions[-1]:g}"
                    )

    @property
    def names(self) -> tuple[str, ...]:
        """The coefficients, in the order in which they were given."""
        return tuple(self._curves)

    def at(self, step: int, total_steps: float) -> dict[str, float]:
        """The coefficients of one step.

        Args:
            step: optimizer steps done so far.
            total_steps: optimizer steps of the whole run; only ``unit="fraction"`` looks at it.

        Raises:
            UserError: ``unit="fraction"`` and the run has no known length.
        """
        position = float(step)
        if self.unit == "fraction":
            if not (math.isfinite(total_steps) and total_steps > 0):
                raise UserError(
                    "schedule.unit=fraction needs a run of known length: set trainer.max_steps or trainer.max_epochs"
                )
            position = step / total_steps * self.span
        return {name: float(np.interp(position, *curve)) for name, curve in self._curves.items()}


def _curve(name: str, points: Mapping[float, float]) -> tuple[list[float], list[float]]:
    where = f"schedule.knots.{name}"
    if not name.isidentifier():
        raise UserError(f"{where}: a coefficient's name must be letters, digits and underscores")
    if not isinstance(points, Mapping) or not points:
        raise UserError(f"{where}: give position: value pairs, such as {{0: 0, 1000: 1}}")
    curve: dict[float, float] = {}
    for key, value in points.items():
        position, height = _number(where, key), _number(f"{where}.{key}", value)
        if position in curve:
            raise UserError(f"{where}: position {position:g} is given twice")
        curve[position] = height
    positions = sorted(curve)
    return positions, [curve[position] for position in positions]


def _number(where: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {value!r} is not a number") from error
    if not (math.isfinite(number) and number >= 0):
        raise UserError(f"{where}: {value!r} must be finite and at least 0")
    return number


class ScheduleCoefficients(pl.Callback):
    """Sets ``pl_module.coefficients`` before every step, and logs them as ``coefficient/<name>`` if it is kept.

    They are a function of ``trainer.global_step`` alone, so a resumed run is on schedule without any saved state.
    """

    def __init__(self, schedule: CoefficientSchedule) -> None:
        """Takes the schedule."""
        self.schedule = schedule

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sets them for the sanity check of the validation, and finds a run of unknown length early."""
        self._set(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets the coefficients of the step, and logs them if the step is kept."""
        values = self._set(trainer, pl_module)
        if keeps_step(trainer):
            pl_module.log_dict({f"coefficient/{name}": value for name, value in values.items()})

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sets the coefficients that a validation during training is judged with."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._set(trainer, pl_module)

    def _set(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, float]:
        values = self.schedule.at(trainer.global_step, trainer.estimated_stepping_batches)
        pl_module.coefficients = values
        return values
