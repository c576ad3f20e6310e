"""The layered loss: terms, each with a coefficient that the schedule sets."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from siglip_med.core.errors import UserError
from siglip_med.losses.pair_batch import PairBatch

Term = Callable[[PairBatch], Tensor]
"""A loss term: takes the pairs, returns a finite 0-dim loss with a live graph."""

_EXPRESSION = re.compile(r"(?P<complement>1(?:\.0*)?\s*-\s*)?(?P<name>[A-Za-z_]\w*)")


class LossOutput(NamedTuple):
    """The layered loss of one step.

    Attributes:
        total: 0-dim, the sum of the weighted terms.
        raw: each computed term by name, as the term returned it.
        weighted: each computed term by name, times coefficient and scale.
    """

    total: Tensor
    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]


class WeightedTerm(nn.Module):
    """A term with its coefficient and scale.

    Args:
        term: the term.
        coefficient: a number, or what the schedule calls it: ``alpha``, ``1 - alpha``, ``beta``, ``gamma``,
            ``delta`` or any other name that the schedule gives.
        scale: constant factor that brings the term to the size of the others.

    Raises:
        UserError: the coefficient is neither a number, a name nor ``1 - name``, or is negative.
    """

    def __init__(self, term: Term, coefficient: str | float = 1.0, scale: NonNegativeFloat = 1.0) -> None:
        super().__init__()
        self.term = term
        self.scale = float(scale)
        self._constant, self._name, self._complement = _parse(coefficient)

    @property
    def coefficient(self) -> str:
        """What the schedule calls it; empty for a number."""
        return self._name if self._constant is None else ""

    def weight(self, coefficients: Mapping[str, float]) -> float:
        """Coefficient times scale at this step.

        Args:
            coefficients: today's value of each name.

        Raises:
            UserError: the name is not among them, or the coefficient comes out negative.
        """
        if self._constant is not None:
            return self._constant * self.scale
        if self._name not in coefficients:
            known = ", ".join(sorted(coefficients)) or "nothing"
            raise UserError(f"coefficient {self._name!r} is not in the schedule, which gives {known}: add its knots")
        value = float(coefficients[self._name])
        value = 1.0 - value if self._complement else value
        if value < 0:
            written = f"1 - {self._name}" if self._complement else self._name
            raise UserError(f"coefficient '{written}' is {value:g}: keep {self._name} in [0, 1] in the schedule")
        return value * self.scale

    def forward(self, batch: PairBatch) -> Tensor:
        """The raw term."""
        return self.term(batch)


class LayeredLoss(nn.Module):
    """Total = sum of coefficient x scale x term.

    Examples:
        >>> zero, one = torch.zeros(()), torch.ones(1, 1)
        >>> loss = LayeredLoss({"far": WeightedTerm(lambda batch: 3 + batch.zero, "1 - alpha", scale=2.0)})
        >>> loss(PairBatch.from_targets(one, one, zero, zero, one), {"alpha": 0.25}).total.item()
        4.5

    A term whose coefficient is 0 is not computed. The total always has a live graph to every input of the batch (with a
    gradient of zero where no term needs one), which DistributedDataParallel needs.

    Args:
        terms: the terms by name, in the order in which they are computed.

    Raises:
        UserError: there is no term, or a name is not an identifier.
    """

    def __init__(self, terms: Mapping[str, WeightedTerm]) -> None:
        super().__init__()
        if not terms:
            raise UserError("loss.terms is empty: give at least one term")
        for name in terms:
            if not str(name).isidentifier():
                raise UserError(f"loss.terms.{name}: a term's name must be letters, digits and underscores")
        self.names = tuple(terms)
        for name, term in terms.items():
            # A ModuleDict would refuse names that a Module has as attributes: half, double, float, type …
            self.add_module(f"term_{name}", term)

    @property
    def coefficients(self) -> frozenset[str]:
        """The names of the schedule that its terms use."""
        return frozenset(name for term in map(self._term, self.names) if (name := term.coefficient))

    def weights(self, coefficients: Mapping[str, float]) -> dict[str, float]:
        """Coefficient times scale of every term, also of those at 0.

        Args:
            coefficients: today's value of each name.

        Raises:
            UserError: see `WeightedTerm.weight`.
        """
        return {name: self._term(name).weight(coefficients) for name in self.names}

    def forward(self, batch: PairBatch, coefficients: Mapping[str, float]) -> LossOutput:
        """The loss of one step, in full precision whatever autocast is set to.

        Args:
            batch: the pairs; under distributed training the gathered ones.
            coefficients: today's value of each name.

        Returns:
            Total, raw and weighted terms.

        Raises:
            UserError: see `WeightedTerm.weight`.
        """
        weights = self.weights(coefficients)
        with torch.autocast(batch.image.device.type, enabled=False):
            raw = {name: self._term(name)(batch) for name, weight in weights.items() if weight != 0}
            weighted = {name: weights[name] * value for name, value in raw.items()}
            total = torch.stack([*weighted.values(), batch.zero]).sum()
        return LossOutput(total, raw, weighted)

    def _term(self, name: str) -> WeightedTerm:
        term = self.get_submodule(f"term_{name}")
        assert isinstance(term, WeightedTerm)
        return term


def _parse(coefficient: str | float) -> tuple[float | None, str, bool]:
    """The constant or else the name, and whether 1 - name is meant."""
    try:
        value = float(coefficient)
    except ValueError as error:
        match = _EXPRESSION.fullmatch(str(coefficient).strip())
        if match is None:
            raise UserError(
                f"coefficient {coefficient!r} is neither a number nor a name of the schedule, such as '1 - alpha'"
            ) from error
        return None, match["name"], match["complement"] is not None
    if not 0 <= value < float("inf"):
        raise UserError(f"coefficient {coefficient!r} must be a finite number of at least 0")
    return value, "", False
