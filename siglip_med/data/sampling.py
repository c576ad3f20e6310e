"""Which training images an epoch draws, so that rare conditions are seen; positions only, no copies of images."""

from dataclasses import dataclass, field
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from pydantic import Field


@runtime_checkable
class SamplingStrategy(Protocol):
    """Draws one epoch."""

    def indices(self, labels: np.ndarray, primary: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Positions of an epoch's images, in the order to show them.

        Args:
            labels: ``[n, C]`` of the training images; > 0 means listed.
            primary: ``[n]`` int, first condition of each.
            generator: the epoch's own; nothing else is random.

        Returns:
            ``[M]`` int64 in 0..n-1; M is the same in every epoch.
        """


@dataclass(frozen=True)
class Natural:
    """Every image once."""

    def indices(self, labels: np.ndarray, primary: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """A random order of all positions; see `SamplingStrategy`."""
        return generator.permutation(len(labels))


@dataclass(frozen=True)
class PerSource:
    """As many draws as images, every source of a mixture as often as every other; within a source another strategy.

    Args:
        within: which images of one source an epoch draws; small sources go through its draws again.
    """

    within: SamplingStrategy = field(default_factory=Natural)

    def of(self, sources: np.ndarray) -> SamplingStrategy:
        """The strategy for training images of ``[n]`` sources, by name."""
        return _OfSources(self.within, sources)

    def indices(self, labels: np.ndarray, primary: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """As of one source: what ``within`` draws; see `SamplingStrategy`."""
        return self.within.indices(labels, primary, generator)


@dataclass(frozen=True)
class _OfSources:
    within: SamplingStrategy
    sources: np.ndarray

    def indices(self, labels: np.ndarray, primary: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        names = np.unique(self.sources)
        share, rest = divmod(len(labels), len(names))
        drawn = []
        for place, name in enumerate(names):
            rows, wanted = np.flatnonzero(self.sources == name), share + (place < rest)
            order = np.empty(0, dtype=np.int64)
            while len(order) < wanted:
                order = np.concatenate([order, rows[self.within.indices(labels[rows], primary[rows], generator)]])
            drawn.append(order[:wanted])
        return generator.permutation(np.concatenate(drawn))


@dataclass(frozen=True)
class OversampleToMinimum:
    """Every image once, and images of rare conditions again, until each condition is listed ``minimum`` times.

    What is repeated are the images that bring the fewest labels of conditions that have enough already, weighed
    against how often they were repeated: the cost of one more draw is (1 + labels that have enough) x (1 + repeats).
    So a rare condition that always comes with Eczema raises Eczema no more than need be.

    Args:
        minimum: images per condition and epoch.
    """

    minimum: Annotated[int, Field(gt=0, le=1_000_000)] = 30

    def indices(self, labels: np.ndarray, primary: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """All positions and the repeated ones in random order; see `SamplingStrategy`."""
        listed = labels > 0
        repeats = np.zeros(len(labels), dtype=np.int64)
        counts = listed.sum(axis=0)
        # an epoch's length must not change: chance only decides between images that list the same conditions
        _, pattern = np.unique(listed, axis=0, return_inverse=True)
        order = pattern * len(labels) + generator.permutation(len(labels))
        for condition in np.argsort(counts, kind="stable"):
            members = np.flatnonzero(listed[:, condition])
            while 0 < counts[condition] < self.minimum:
                enough = listed[members][:, counts >= self.minimum].sum(axis=1)
                cost = (1 + enough) * (1 + repeats[members])
                cheapest = members[cost == cost.min()]
                chosen = cheapest[np.argmin(order[cheapest])]
                repeats[chosen] += 1
                counts += listed[chosen]
        return generator.permutation(np.repeat(np.arange(len(labels)), 1 + repeats))


@dataclass(frozen=True)
class SquareRoot:
    """As many draws as images, condition c in proportion to the square root of its count.

    Source: Mikolov et al. 2013; Mahajan et al., ECCV 2018, section 2.2.

    Args:
        maximum_repeats: expected draws of one image per epoch stay below this.
    """

    maximum_repeats: Annotated[int, Field(gt=0, le=1_000_000)] = 10

    def indices(self, labels: np.ndarray, primary: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Positions drawn towards the target shares; see `SamplingStrategy`."""
        counts = (labels > 0).sum(axis=0)
        return _draw(labels, primary, np.sqrt(counts), self.maximum_repeats, generator)


@dataclass(frozen=True)
class ClassBalanced:
    """As many draws as images, condition c with n images in proportion to n (1 - beta) / (1 - beta^n).

    That is the count times the class-balanced weight of Cui et al., CVPR 2019: beta = 0 leaves the counts as they
    are, beta towards 1 makes all conditions alike.

    Args:
        beta: of the effective number, in [0, 1).
        maximum_repeats: expected draws of one image per epoch stay below this.
    """

    beta: Annotated[float, Field(ge=0, lt=1)] = 0.999
    maximum_repeats: Annotated[int, Field(gt=0, le=1_000_000)] = 10

    def indices(self, labels: np.ndarray, primary: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Positions drawn towards the target shares; see `SamplingStrategy`."""
        counts = (labels > 0).sum(axis=0)
        effective = (1 - self.beta ** np.maximum(counts, 1)) / (1 - self.beta)
        return _draw(labels, primary, counts / effective, self.maximum_repeats, generator)


def expected_draws(labels: np.ndarray, target: np.ndarray, maximum: float, rounds: int = 200) -> np.ndarray:
    """How often to draw each image so that the labels come in given proportions, as far as they can.

    Images have several labels, so no weight a condition does it. The weights are found by raking (iterative
    proportional fitting, Deming and Stephan 1940): each round multiplies an image's weight by the geometric mean of
    wanted / present over its labels.

    Args:
        labels: ``[n, C]``; > 0 means listed; each row lists at least one.
        target: ``[C]`` wanted proportions; 0 for conditions that no image lists.
        maximum: bound on each image's draws.
        rounds: of the fit.

    Returns:
        ``[n]`` float64, sums to n.
    """
    listed = (labels > 0).astype(np.float64)
    each = listed / listed.sum(axis=1, keepdims=True)
    there = listed.any(axis=0)
    wanted = np.where(there, target, 0.0) / target[there].sum()
    draws = np.ones(len(listed))
    for _ in range(rounds):
        present = draws @ listed
        ratio = np.log(wanted[there] * present.sum() / present[there])
        draws = draws * np.exp(each[:, there] @ ratio)
        draws = _scale(draws, maximum)
    return draws


def _scale(draws: np.ndarray, maximum: float) -> np.ndarray:
    """Scales to a mean of 1 with no value above ``maximum``: those that would be get it, the others share the rest."""
    full = np.zeros(len(draws), dtype=bool)
    while True:
        rest = len(draws) - maximum * full.sum()
        scaled = np.where(full, maximum, draws * (rest / draws[~full].sum()))
        over = scaled > maximum * (1 + 1e-9)
        if not over.any():
            return scaled
        full |= over


def _draw(
    labels: np.ndarray, primary: np.ndarray, target: np.ndarray, maximum: int, generator: np.random.Generator
) -> np.ndarray:
    """Systematic draws: each image, and each first condition, comes as often as expected but for less than one."""
    draws = expected_draws(labels, target, maximum)
    order = generator.permutation(len(draws))
    order = order[np.argsort(primary[order], kind="stable")]
    marks = np.cumsum(draws[order])
    points = np.arange(len(draws)) + generator.random()
    positions = np.searchsorted(marks, points * (marks[-1] / len(draws)), side="right")
    return generator.permutation(order[np.minimum(positions, len(draws) - 1)])


def effective_counts(labels: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """``[C]`` int64: how many of an epoch's drawn images (``[M]`` indices) list each condition."""
    return (labels[indices] > 0).sum(axis=0)
