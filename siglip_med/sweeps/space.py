"""The space that a sweep searches, typed, and seeded draws from it that are the same for every loss."""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    StrictBool,
    StrictFloat,
    StrictInt,
    model_validator,
)

from siglip_med.core.shell import in_quotes

Value = StrictBool | StrictInt | StrictFloat | str | None
Number = StrictInt | StrictFloat


class Knob(BaseModel):
    """One setting to tune: a range, or choices.

    Attributes:
        key: the setting, ``optimizer.learning_rate``; or one for each experiment that has it, ``{softmax: …}``.
        low, high: bounds of a range, both in it.
        log: draw evenly on the logarithmic scale.
        integer: whole numbers alone.
        choices: values to draw from, in place of a range.
    """

    model_config = ConfigDict(extra="forbid")

    key: str | dict[str, str]
    low: Number | None = None
    high: Number | None = None
    log: StrictBool = False
    integer: StrictBool = False
    choices: Annotated[list[Value], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        bounds = (self.low, self.high)
        if self.choices is not None:
            if bounds != (None, None) or self.log or self.integer:
                raise ValueError("give choices, or low and high, not both")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("low must be above 0 on a logarithmic scale")
        if self.integer and (self.low != int(self.low) or self.high != int(self.high)):
            raise ValueError("low and high must be whole numbers where integer is true")
        return self

    def key_of(self, names: Sequence[str]) -> str | None:
        """The setting in an experiment; None where that has none of this kind.

        Args:
            names: what the experiment is called.
        """
        if isinstance(self.key, str):
            return self.key
        return next((self.key[name] for name in names if name in self.key), None)

    def ends(self) -> list[Value]:
        """The values that show whether the whole knob is possible: both bounds, or every choice."""
        if self.choices is not None:
            return list(self.choices)
        assert self.low is not None
        assert self.high is not None
        return [int(self.low), int(self.high)] if self.integer else [self.low, self.high]


class TuneSettings(BaseModel):
    """``hydra.sweeper`` of ``sweep=tune``.

    Attributes:
        trials: settings that each experiment tries; the first are its defaults.
        seed: of the draws.
        sampler: ``random``: the same draws for every experiment; ``tpe``: each goes its own way after ``startup``.
        startup: random trials before the tree-structured Parzen estimator takes over.
        batch: trials handed to the launcher at once; None: as many as it runs side by side.
        space: what is tuned, by a short name.
        params: swept settings, as in Hydra's own sweeper; each combination is tuned by itself.
    """

    model_config = ConfigDict(extra="forbid")

    trials: PositiveInt
    seed: NonNegativeInt
    sampler: Literal["random", "tpe"]
    startup: PositiveInt
    batch: PositiveInt | None
    space: Annotated[dict[str, Knob], Field(min_length=1)]
    params: dict[str, Any]


def draw(knob: Knob, name: str, seed: int, trial: int) -> Value:
    """The value of a knob in a trial: a function of its name, the seed and the trial, and of nothing else.

    What else is tuned, and what was tried before, makes no difference; experiments that share a knob get the same
    value, also where they write it with another key.

    Args:
        knob: what to draw.
        name: of the knob in the space.
        seed: of the sweep.
        trial: number of the trial.
    """
    random = np.random.default_rng((seed, trial, zlib.crc32(name.encode("utf-8"))))
    if knob.choices is not None:
        return knob.choices[int(random.integers(len(knob.choices)))]
    assert knob.low is not None
    assert knob.high is not None
    if knob.integer:
        low, high = int(knob.low), int(knob.high)
        if not knob.log:
            return int(random.integers(low, high + 1))
        return min(max(round(math.exp(random.uniform(math.log(low), math.log(high)))), low), high)
    drawn = (
        math.exp(random.uniform(math.log(knob.low), math.log(knob.high)))
        if knob.log
        else random.uniform(knob.low, knob.high)
    )
    return float(min(max(float(f"{drawn:.3g}"), knob.low), knob.high))  # three digits, as a person would write it


def words(space: Mapping[str, Knob], names: Sequence[str], values: Mapping[str, Value]) -> list[str]:
    """The overrides of a trial.

    Args:
        space: what is tuned.
        names: what the experiment is called.
        values: of the trial, by name of the knob; none are the defaults.
    """
    found = []
    for name, value in values.items():
        key = space[name].key_of(names)
        if key is not None:
            found.append(f"{key}={_text(value)}")
    return found


def _text(value: Value) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if not isinstance(value, str) else in_quotes(value)
