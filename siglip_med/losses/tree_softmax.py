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
    their labels. A label above several conditions (see `PairBatch.open_labels`) shares in it as they do: its node has
    the mass of all of them. The optimum has the right conditions first, which that of squared distances has not. The
    loss of a batch is the mean over the images with a positive text or such a label; 0 where there is none.

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
        image, weight, distance = self._labels(batch)
        mass = weight.new_zeros(len(batch.image)).index_add(0, image, weight)
        logits = adjusted_logits(batch, self.adjustment)
        if batch.undecided is not None:
            inside = batch.possible[:, batch.needed("text_condition")]
            logits = logits.masked_fill(batch.undecided & ~inside, torch.finfo(logits.dtype).min)
        # Of log-probabilities, not of logits: the difference of two sums would lose all digits where a node is certain.
        log_probability = F.log_softmax(logits, dim=1)
        # Whole rows: the gradient of an index would be added up element by element.
        of_image = log_probability.index_select(0, image)
        path = torch.zeros_like(of_image[:, 0])
        for level, of_level in enumerate(self.weights):
            # D is made of fractions that binary ones only approximate.
            of_node = of_image.masked_fill(distance > level / len(self.weights) + 1e-6, -torch.inf)
            path = path + of_level * of_node.logsumexp(dim=1)
        return batch.zero - (weight / mass[image] * path).sum() / (mass > 0).sum().clamp_min(1)

    @staticmethod
    def _labels(batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Image and weight ``[P]`` and D to each text ``[P, T]``: of the positives, then of the open broad labels."""
        image, text = batch.targets.nonzero(as_tuple=True)
        weight, distance = batch.targets[image, text], batch.text_dissimilarity.index_select(0, text)
        if batch.broad_labels is None:
            return image, weight, distance
        of, label = batch.open_labels.nonzero(as_tuple=True)
        below = batch.broad_distance[label]
        shown = (below <= 0).any(dim=1)  # a pool of texts may hold none of its conditions
        parts = (image, of[shown]), (weight, batch.open_labels[of, label][shown]), (distance, below[shown])
        images, weights, distances = (torch.cat(part) for part in parts)
        return images, weights, distances
