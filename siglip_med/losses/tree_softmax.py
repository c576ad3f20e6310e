"""Softmax over the prompts and over the branches of the tree that they hang on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from siglip_med.core.errors import UserError
from siglip_med.losses.adjustment import adjusted_logits
from siglip_med.losses.pair_batch import PairBatch

NonNegative = Annotated[float, Field(ge=0)]

LEAF_FIRST = (0.6, 0.1, 0.1, 0.1, 0.1)
_BLOCK = 4_000_000
"""Pairs of a way to the root and a prompt that are looked at together."""


def tree_softmax(batch: PairBatch, weights: Sequence[float] = LEAF_FIRST, adjustment: float = 0.0) -> Tensor:
    """Negative log-probability of every node on the way from an image's conditions to the root.

    With p the softmax over the prompts, the probability of a node is the sum over its leaves. The node at height h
    above a condition holds the prompts whose conditions are within h of it in D; where D is ultrametric, as the
    heights of common ancestors are, these are the nodes of its tree. The loss of an image is
    ``- sum_k share_k sum_l weights[l] log p(node of k at height l / L)``, where its conditions k share the mass by
    their labels. Its optimum has the right conditions first, which that of squared distances has not.

    Args:
        batch: the pairs, with D.
        weights: L of them, from the condition itself upwards, with sum 1. Five meet the levels of ICD: condition,
            code, category, block, chapter (the root has probability 1). Weight on the first alone is the softmax.
        adjustment: see `siglip_med.losses.adjustment.adjusted_logits`.

    Returns:
        0-dim loss, the mean over the images with a positive text; 0 where there is none.

    Raises:
        ValueError: the batch has no dissimilarity matrix or no conditions.

    Source: Bertinetto et al. 2020 (CVPR), hierarchical cross-entropy; Chan et al. 2026, arXiv 2605.06274; the mass
    shared by several labels: ours.
    """
    mass = batch.targets.sum(dim=1, keepdim=True)
    share = batch.targets / torch.where(mass > 0, mass, torch.ones_like(mass))
    image, text = batch.targets.nonzero(as_tuple=True)
    # Of log-probabilities, not of logits: the difference of two sums would lose all digits where a node is certain.
    log_probability = F.log_softmax(adjusted_logits(batch, adjustment), dim=1)
    path = _Paths(torch.tensor(weights, dtype=log_probability.dtype, device=text.device))
    total = batch.zero
    rows = max(1, _BLOCK // max(1, log_probability.shape[1]))
    for one, other in zip(image.split(rows), text.split(rows), strict=True):
        # Whole rows: the gradient of an index would be added up element by element.
        of_block = (log_probability.index_select(0, one), batch.text_dissimilarity.index_select(0, other))
        # One block of them keeps what its gradient needs; several compute it again, so memory does not grow.
        value = path(*of_block) if rows >= len(image) else checkpoint(path, *of_block, use_reentrant=False)
        total = total - (share[one, other] * value).sum() / (mass > 0).sum().clamp_min(1)
    return total


class _Paths:
    """Weighted sum of the log-probabilities of the nodes on some ways to the root."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, log_probability: Tensor, dissimilarity: Tensor) -> Tensor:
        """``[n]`` of ``[n, T]`` log-probabilities of the prompts, and how far each is from the path's condition.

        Nodes hold one another, so every prompt is added once, to the lowest node that holds it, and the sums are
        carried upwards.
        """
        levels = len(self.weights)
        heights = torch.arange(levels, device=dissimilarity.device, dtype=dissimilarity.dtype) / levels
        # D is made of fractions that binary ones only approximate. What lies above all heights is in the last place.
        lowest = torch.bucketize(dissimilarity, heights + 1e-6)
        shape = (len(log_probability), levels + 1)
        with torch.no_grad():
            highest = log_probability.new_full(shape, -torch.inf)
            highest.scatter_reduce_(1, lowest, log_probability, "amax")
            # A place without a prompt has no mass, and must not make NaN of a difference of infinities.
            highest = highest.nan_to_num(neginf=0.0)
        scaled = (log_probability - highest.gather(1, lowest)).exp()
        mass = scaled.new_zeros(shape).scatter_add(1, lowest, scaled)
        # The largest of a place counts 1, so no mass lies between 0 and 1; NaN stays NaN.
        of_place = torch.where(mass == 0, -torch.inf, mass.clamp_min(1.0).log() + highest)[:, :levels]
        return (of_place.logcumsumexp(dim=1) * self.weights).sum(dim=1)


@dataclass(frozen=True)
class TreeSoftmax:
    """`tree_softmax` as a term."""

    weights: Sequence[NonNegative] = LEAF_FIRST
    adjustment: NonNegative = 0.0

    def __post_init__(self) -> None:
        if not math.isclose(sum(self.weights), 1.0, abs_tol=1e-6):
            raise UserError(f"the tree softmax's weights {list(self.weights)} must sum to 1, not {sum(self.weights):g}")

    def __call__(self, batch: PairBatch) -> Tensor:
        return tree_softmax(batch, self.weights, self.adjustment)
