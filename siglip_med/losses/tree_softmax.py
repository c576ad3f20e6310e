"""Softmax over the prompts and over the branches of the tree that they hang on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

from siglip_med.core.errors import UserError
from siglip_med.losses.adjustment import adjusted_logits
from siglip_med.losses.pair_batch import PairBatch


@dataclass(frozen=True)
class TreeSoftmax:
    """Negative log-probability of every node on the way from an image's conditions to the root.

    With p the softmax over the prompts, the probability of a node is the sum over its leaves. The node at height h
    above a condition holds the prompts whose conditions are within h of it in D; where D is ultrametric, as the
    heights of common ancestors are, these are the nodes of its tree. The loss of an image is
    ``- sum_k share_k sum_l weights[l] log p(node of k at height l / L)``, where its conditions k share the mass by
    their labels. Its optimum has the right conditions first, which that of squared distances has not. The loss of a
    batch is the mean over the images with a positive text; 0 where there is none.

    Args:
        weights: L of them, from the condition itself upwards, with sum 1. Five meet the levels of ICD: condition,
            code, category, block, chapter (the root has probability 1). Weight on the first alone is the softmax.
        adjustment: see `siglip_med.losses.adjusted_logits`.

    Raises:
        UserError: the weights do not sum to 1.
        ValueError: when called with a batch that has no dissimilarity matrix or no conditions.

    Source: Bertinetto et al. 2020 (CVPR), hierarchical cross-entropy; Chan et al. 2026, arXiv 2605.06274; the mass
    shared by several labels: ours.
    """

    weights: Sequence[NonNegativeFloat] = (0.6, 0.1, 0.1, 0.1, 0.1)
    adjustment: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        if not math.isclose(sum(self.weights), 1.0, abs_tol=1e-6):
            raise UserError(f"the tree softmax's weights {list(self.weights)} must sum to 1, not {sum(self.weights):g}")

    def __call__(self, batch: PairBatch) -> Tensor:
        mass = batch.targets.sum(dim=1, keepdim=True)
        share = batch.targets / torch.where(mass > 0, mass, torch.ones_like(mass))
        image, text = batch.targets.nonzero(as_tuple=True)
        # Of log-probabilities, not of logits: the difference of two sums would lose all digits where a node is certain.
        log_probability = F.log_softmax(adjusted_logits(batch, self.adjustment), dim=1)
        # Whole rows: the gradient of an index would be added up element by element.
        of_image = log_probability.index_select(0, image)
        distance = batch.text_dissimilarity.index_select(0, text)
        path = torch.zeros_like(of_image[:, 0])
        for level, weight in enumerate(self.weights):
            # D is made of fractions that binary ones only approximate.
            of_node = of_image.masked_fill(distance > level / len(self.weights) + 1e-6, -torch.inf)
            path = path + weight * of_node.logsumexp(dim=1)
        return batch.zero - (share[image, text] * path).sum() / (mass > 0).sum().clamp_min(1)
