"""How familiar a photograph is to a trained model: a p-value against the photographs of its validation split."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt
from scipy.special import logsumexp

MOST = 5_000
"""Validation photographs that are kept of more, by chance: a number each."""
ENERGY = 0.25
"""Weight of the energy: none leaves unlisted conditions unseen, more hides pictures of no skin (docs/metrics.md)."""
USUAL = 0.01
"""Share of validation photographs from which on a fault is none: the data is like that."""


class Scale(BaseModel):
    """A measure's median on validation, and how far its 95% quantile lies above that."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    median: FiniteFloat
    spread: Annotated[FiniteFloat, Field(gt=0)]

    @classmethod
    def of(cls, values: np.ndarray) -> "Scale":
        """Of ``[V]`` values; a measure that does not vary has the spread 1."""
        median, high = np.quantile(values, (0.5, 0.95)).tolist()
        return cls(median=median, spread=high - median if high > median else 1.0)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """``[N]`` values as multiples of the spread above the median."""
        return (values - self.median) / self.spread


def _ascending(values: list[float]) -> list[float]:
    if values != sorted(values):
        raise ValueError("is not in ascending order")
    return values


class Familiarity(BaseModel):
    """What a checkpoint keeps to tell how familiar a photograph is; plain numbers, no photograph and no feature.

    A photograph is as strange as the distance of its features to the nearest training image (k nearest neighbours, Sun
    et al. 2022, arXiv 2204.06507, with k = 1), where a refit keeps those, and `ENERGY` times the energy of its logits,
    -log sum exp (Liu et al. 2020, arXiv 2010.03759), each on its scale of validation; without a refit, as the energy
    alone. How many validation photographs are as strange makes a p-value (conformal rank: Vovk et al. 2005; Bates et
    al. 2023, arXiv 2104.08279).

    Attributes:
        energy: scale of the energy.
        distance: scale of the distance; None without a refit.
        scores: strangeness of V validation photographs without a fault, ascending.
        faulty: validation photographs with a fault that counts, beside those.
        faults: names of the faults that count: a photograph that has one is not familiar at all.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    energy: Scale
    distance: Scale | None
    scores: Annotated[list[FiniteFloat], Field(max_length=MOST), AfterValidator(_ascending)]
    faulty: NonNegativeInt
    faults: list[str]

    @classmethod
    def fit(cls, logits: np.ndarray, distance: np.ndarray | None, found: Sequence[str], faults: Sequence[str]) -> Self:
        """Ranks validation photographs, or `MOST` of them.

        Args:
            logits: ``[V, C]``.
            distance: ``[V]`` to the nearest training image, or None.
            found: the V faults, "" for none.
            faults: names of all that are looked for.
        """
        some = np.random.default_rng(0).permutation(len(found))[:MOST]
        logits, found = logits[some], [found[row] for row in some]
        distance = None if distance is None else distance[some]
        counted = [name for name in faults if sum(one == name for one in found) <= USUAL * len(found)]
        whole = np.array([one not in counted for one in found], dtype=bool)
        energy = Scale.of(-logsumexp(logits, axis=1))
        rule = cls(
            energy=energy,
            distance=None if distance is None else Scale.of(distance),
            scores=[],
            faulty=int((~whole).sum()),
            faults=counted,
        )
        scores = np.sort(rule.strangeness(logits, distance)[whole]).tolist()
        return rule.model_copy(update={"scores": scores})

    def strangeness(self, logits: np.ndarray, distance: np.ndarray | None) -> np.ndarray:
        """``[N]`` of ``[N, C]`` logits and ``[N]`` distances, the higher the less like validation."""
        strange = self.energy(-logsumexp(logits.astype(np.float64), axis=1))
        return strange if self.distance is None else self.distance(np.asarray(distance)) + ENERGY * strange

    def p_values(self, logits: np.ndarray, distance: np.ndarray | None, found: Sequence[str]) -> np.ndarray:
        """``[N]`` familiarity in [0, 1]: (1 + validation photographs as strange) / (1 + V); 0 with a fault that counts.

        Args:
            logits: ``[N, C]``.
            distance: ``[N]``, or None without a refit.
            found: the N faults, "" for none.
        """
        scores = np.asarray(self.scores)
        as_strange = len(scores) - np.searchsorted(scores, self.strangeness(logits, distance), side="left")
        p = (1 + self.faulty + as_strange) / (1 + self.faulty + len(scores))
        return np.where(np.isin(np.asarray(found, dtype=str), self.faults), 0.0, p)


def read_familiarity(payload: Mapping[str, Any]) -> Familiarity | None:
    """Of the payload of a checkpoint or export; None where it is from before there was any."""
    stored = payload.get("familiarity")
    return None if stored is None else Familiarity.model_validate(stored)
