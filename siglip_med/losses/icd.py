"""The ICD geometric loss: distances between embeddings follow the dissimilarity matrix D."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from siglip_med.losses.pair_batch import PairBatch

Pairs = Literal["cross", "text", "image"]
Fit = Literal["squared", "correlation"]
Balance = Literal["level", "none"]

_LEVELS = 10


def icd_geometric(batch: PairBatch, pairs: Pairs = "cross", fit: Fit = "squared", balance: Balance = "level") -> Tensor:
    """How far cosine distances are from the ICD dissimilarities of the same pairs.

    With distance d = 1 - cosine, dissimilarity s and weights w that sum to 1, ``squared`` is ``sum w (d - s)^2`` and
    ``correlation`` is 1 minus the weighted Pearson correlation of d and s, which is free of scale.

    Args:
        batch: the pairs, with D.
        pairs: ``cross`` compares images with texts against S (the nearest label of the image); ``text`` the texts
            with each other against D, which teaches the tree without touching the images; ``image`` the images with
            each other against the nearest of their labels.
        fit: ``squared`` or ``correlation``.
        balance: ``level`` gives every level of dissimilarity (rounded to tenths) the same total weight, since most
            pairs lie at 1; ``none`` weighs all pairs alike.

    Returns:
        0-dim loss; 0 where there is no pair to compare. Images without a label, and a text or image compared with
        itself, are left out.

    Raises:
        ValueError: the batch has no dissimilarity matrix or no labels.

    Source: Barz & Denzler 2019 (WACV); Bertinetto et al. 2020 (CVPR); metric multidimensional scaling, Kruskal 1964.

    Example:
        Two conditions at D = 0.4 whose texts are at right angles, at a cosine distance of 1:

        >>> import torch
        >>> from siglip_med.losses import PairBatch
        >>> zero, own = torch.tensor(0.0), torch.eye(2)
        >>> batch = PairBatch.build(own, own, zero, zero, own, torch.arange(2), torch.tensor([[0, 0.4], [0.4, 0]]))
        >>> round(icd_geometric(batch, pairs="text").item(), 4)  # (1 - 0.4) ** 2
        0.36
    """
    cosine, dissimilarity, valid = _compared(batch, pairs)
    weight = _weights(dissimilarity, valid, balance)
    distance = 1.0 - cosine
    if fit == "correlation":
        loss = 1.0 - _correlation(distance, dissimilarity, weight)
        return torch.where(valid.any(), loss, torch.zeros_like(loss)) + batch.zero
    return (weight * (distance - dissimilarity).square()).sum() + batch.zero


def _compared(batch: PairBatch, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    if pairs == "cross":
        dissimilarity = batch.min_dissimilarity
        return batch.cosine, dissimilarity, batch.labeled[:, None].expand_as(dissimilarity)
    if pairs == "text":
        other = ~torch.eye(len(batch.text), dtype=torch.bool, device=batch.text.device)
        return batch.text_cosine, batch.text_dissimilarity, other
    other = ~torch.eye(len(batch.image), dtype=torch.bool, device=batch.image.device)
    return batch.image_cosine, batch.image_dissimilarity, other & batch.labeled & batch.labeled[:, None]


def _weights(dissimilarity: Tensor, valid: Tensor, balance: Balance) -> Tensor:
    mass = valid.to(dissimilarity)
    if balance == "level":
        level = (dissimilarity * _LEVELS).round().long().clamp(0, _LEVELS)
        count = torch.zeros(_LEVELS + 1, dtype=mass.dtype, device=mass.device)
        count = count.index_add(0, level.flatten(), mass.flatten())
        mass = mass / count.clamp_min(1.0)[level]
    return mass / mass.sum().clamp_min(torch.finfo(mass.dtype).tiny)


def _correlation(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    x = x - (weight * x).sum()
    y = y - (weight * y).sum()
    variances = (weight * x.square()).sum() * (weight * y.square()).sum()
    # All distances equal, or all dissimilarities: no correlation is defined, and this reads it as 0.
    return (weight * x * y).sum() / (variances + torch.finfo(x.dtype).eps).sqrt()


@dataclass(frozen=True)
class IcdGeometric:
    """`icd_geometric` as a term. Unscaled it is about 0.03 where the sigmoid term is about 1: give it a scale."""

    pairs: Pairs = "cross"
    fit: Fit = "squared"
    balance: Balance = "level"

    def __call__(self, batch: PairBatch) -> Tensor:
        return icd_geometric(batch, self.pairs, self.fit, self.balance)
