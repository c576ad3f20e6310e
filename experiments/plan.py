"""What a ``study.yaml`` says: what is compared, on which data, and how every loss is tuned."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt

from experiments.heads import Rows, k_shot, long_tail


class Strict(BaseModel):
    """A model that knows all of its keys."""

    model_config = ConfigDict(extra="forbid")


class Spread(Strict):
    """A range to draw from, evenly or on a logarithmic scale."""

    low: float
    high: float
    log: bool = False


class Tuning(Strict):
    """How every tuned loss gets its settings: the best mean of ``metric`` on validation, at the last step.

    Attributes:
        trials: settings that each loss tries; the first are the defaults.
        seeds: splits that a trial is judged on.
        metric: of the validation split.
        end: whose: the prompts' at the last step, or a refit's on the tuned features.
        overrides: of ``train.py`` for the trials alone, such as smaller images.
        space: override -> values or range to draw from, the same draws for every loss.
    """

    trials: PositiveInt
    seeds: PositiveInt
    metric: str = "mrr"
    end: Literal["last", "refit"] = "last"
    overrides: list[str] = []
    space: dict[str, list[Any] | Spread]


class Variant(Strict):
    """One row of the study.

    Attributes:
        overrides: of ``train.py``.
        space: settings of its own to tune, besides the common ones.
        tuned_as: takes the settings that were chosen for another variant, in place of its own trials.
        shuffled: train with D shuffled over the conditions.
        probe: logistic or kernel ridge regression, or nearest neighbours, on the image features in place of heads.
        trees: weights of the tree among which validation chooses, for a kernel and for the refit of a tuned tower.
        only: the data settings in which it runs; None: all.
    """

    overrides: list[str] = []
    space: dict[str, list[Any] | Spread] = {}
    tuned_as: str | None = None
    shuffled: bool = False
    probe: Literal["linear", "kernel", "neighbours"] | None = None
    trees: list[float] = [0.0, 0.1, 0.2, 0.4]
    only: list[str] | None = None


class TrainingData(Strict):
    """What the training split is cut down to; validation and test stay whole."""

    kind: Literal["all", "long_tail", "k_shot"] = "all"
    most: int = 200
    fewest: int = 4
    images: int = 16
    overrides: list[str] = []

    def rows(self, seed: int) -> Rows | None:
        """Which rows a seed trains on; None: all."""
        if self.kind == "all":
            return None
        return long_tail(self.most, self.fewest, seed) if self.kind == "long_tail" else k_shot(self.images, seed)


class Study(Strict):
    """A whole study, as its ``study.yaml`` has it.

    Attributes:
        common: overrides of ``train.py`` for every run.
        seeds: splits (and starts) that each variant is trained on.
        reference: what the others are held against, paired by seed.
        tuning: None: every variant runs with its defaults.
        training: name -> what is trained on.
        variants: name -> what is trained.
        looks: validations of a run, at the most; each falls on the end of an epoch.
        averaged: whether the average of the last weights is scored besides the last ones.
        rounded: whether trained towers give features in bfloat16, as frozen ones do on a processor that has it.
    """

    common: list[str]
    seeds: PositiveInt
    reference: str
    tuning: Tuning | None = None
    training: dict[str, TrainingData] = {"all": TrainingData()}
    variants: dict[str, Variant]
    looks: PositiveInt = 20
    averaged: bool = True
    rounded: bool = False

    def quick(self) -> "Study":
        """The same in a minute or two, to see that it runs: few steps, trials and seeds."""
        tuning = self.tuning and self.tuning.model_copy(update={"trials": 2, "seeds": 1, "space": {}})
        return self.model_copy(update={"seeds": 2, "tuning": tuning})

    def part(self, name: str, kept: list[str]) -> "Study":
        """The study with some of its ``variants`` or ``training`` data alone."""
        there = getattr(self, name)
        unknown = [one for one in kept if one not in there]
        if unknown:
            raise SystemExit(f"{name}={unknown[0]}: the study has {', '.join(there)}")
        return self.model_copy(update={name: {one: value for one, value in there.items() if one in kept}})
