"""The Wasserstein loss: what it costs to move the batch's images onto its texts."""

from dataclasses import dataclass
from typing import Literal

import ot
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from siglip_med.core.errors import UserError
from siglip_med.losses.pair_batch import PairBatch


@dataclass(frozen=True)
class Wasserstein:
    """Optimal transport between image and text embeddings, cost ``2 - 2 cos`` (the squared distance).

    The images that have a positive share the mass evenly; a text's mass is the share of its condition in the batch's
    positives, divided over the texts of that condition, so neither repeating a prompt nor removing repeats changes
    anything. Transport does not know which image belongs to which text (shuffled pairs cost 0): never use it alone.

    Args:
        method: ``exact`` solves on the host in float64 and holds the plan fixed for the gradient (the envelope
            theorem makes that exact); ``entropic`` runs log-domain Sinkhorn on the embeddings' device, for large
            batches, and includes its regularization term ``regularization * KL(plan | product)``; ``sliced`` averages
            one-dimensional transports and scales them by E, so that it is comparable.
        label_weight: lambda of the label-aware cost ``2 - 2 cos + lambda S``.
        regularization: entropic regularization, in units of the cost.
        projections: directions of the sliced distance.
        seed: seed of the directions, the same ones every step; None draws new ones from PyTorch's global generator.

    Raises:
        UserError: ``label_weight`` is used with ``sliced``, which has no pairwise cost.
        ValueError: when called with a batch that has no dissimilarity matrix, and ``label_weight`` is used.

    Source: Flamary et al. 2021 (POT); Frogner et al. 2015; Courty et al. 2017; Cuturi 2013 (entropic); Bonneel et
    al. 2015 (sliced).

    Examples:
        Transport ignores which image belongs to which text; turned by a right angle, each moves by 2 - 2 cos 90°:

        >>> import torch
        >>> from siglip_med.losses import PairBatch
        >>> zero, image = torch.tensor(0.0), torch.tensor([[1.0, 0], [-1, 0]])
        >>> Wasserstein()(PairBatch.from_targets(image, image.flip(0), zero, zero, torch.eye(2))).item()
        0.0
        >>> Wasserstein()(PairBatch.from_targets(image, image.flip(1), zero, zero, torch.eye(2))).item()
        2.0
    """

    method: Literal["exact", "entropic", "sliced"] = "exact"
    label_weight: NonNegativeFloat = 0.0
    regularization: PositiveFloat = 0.05
    projections: PositiveInt = 128
    seed: int | None = 0

    def __post_init__(self) -> None:
        if self.method == "sliced" and self.label_weight:
            raise UserError("the Wasserstein term's label_weight needs method exact or entropic: set it to 0")

    def __call__(self, batch: PairBatch) -> Tensor:
        image_mass, text_mass = _marginals(batch)
        if self.method == "sliced":
            return _sliced(batch, image_mass, text_mass, self.projections, self.seed) + batch.zero
        cost = 2.0 - 2.0 * batch.cosine
        if self.label_weight:
            cost = cost + self.label_weight * batch.min_dissimilarity
        if self.method == "entropic":
            return _entropic(cost, image_mass, text_mass, self.regularization) + batch.zero
        return (_exact_plan(cost, image_mass, text_mass) * cost).sum() + batch.zero


def _marginals(batch: PairBatch) -> tuple[Tensor, Tensor]:
    """``[B]`` and ``[T]`` float64 masses, each with sum 1."""
    positives = batch.targets.double()
    paired = (positives > 0).any(dim=1)
    # Without a single positive there is no preferred mass: it is uniform.
    image_mass = torch.where(paired.any(), paired.double(), 1.0)
    text_mass = torch.where(paired.any(), positives.sum(dim=0), 1.0) / batch.text_multiplicity
    return image_mass / image_mass.sum(), text_mass / text_mass.sum()


def _exact_plan(cost: Tensor, image_mass: Tensor, text_mass: Tensor) -> Tensor:
    # Nothing moves from or to what has no mass, and of many prompts few have any.
    images, texts = image_mass.nonzero().squeeze(1), text_mass.nonzero().squeeze(1)
    host = cost.detach()[images[:, None], texts].double().cpu().numpy()
    found = ot.emd(image_mass[images].cpu().numpy(), text_mass[texts].cpu().numpy(), host, numItermax=1_000_000)
    plan = torch.zeros_like(cost)
    plan[images[:, None], texts] = torch.from_numpy(found).to(cost)
    return plan


def _entropic(cost: Tensor, image_mass: Tensor, text_mass: Tensor, regularization: float) -> Tensor:
    image_mass, text_mass = image_mass.to(cost), text_mass.to(cost)
    with torch.no_grad():
        tolerance = 1e-10 if cost.dtype == torch.float64 else 1e-5
        plan = ot.bregman.sinkhorn_log(
            image_mass, text_mass, cost.detach(), regularization, numItermax=2000, stopThr=tolerance, warn=False
        )
        product = image_mass[:, None] * text_mass
        divergence = torch.where(plan > 0, plan * (plan / product).log(), 0.0).sum()
    return (plan * cost).sum() + regularization * divergence


def _sliced(batch: PairBatch, image_mass: Tensor, text_mass: Tensor, projections: int, seed: int | None) -> Tensor:
    dimensions = batch.image.shape[1]
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    directions = torch.randn(dimensions, projections, generator=generator, dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(batch.image)
    with torch.autocast(batch.image.device.type, enabled=False):
        images, texts = batch.image @ directions, batch.text @ directions
    squared = ot.wasserstein_1d(images, texts, image_mass.to(images), text_mass.to(texts), p=2)
    return dimensions * squared.mean()
