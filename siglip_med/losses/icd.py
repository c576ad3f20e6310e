"""The ICD geometric loss: distances between embeddings follow the dissimilarity matrix D."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from siglip_med.losses.pair_batch import PairBatch

_LEVELS = 10


@dataclass(frozen=True)
class IcdGeometric:
    """How far cosine distances are from the ICD dissimilarities of the same pairs.

    With distance d = 1 - cosine, dissimilarity s and weights w that sum to 1, ``squared`` is ``sum w (d - s)^2`` and
    ``correlation`` is 1 minus the weighted Pearson correlation of d and s, which is free of scale. The loss is 0 where
    there is no pair to compare. Images without a label, and a text or image compared with itself, are left out,
    and so are pairs that a broad label leaves undecided. Unscaled it is about 0.03 where the sigmoid term is about 1:
    give it a scale.

    Args:
        pairs: ``cross`` compares images with texts against S (the nearest label of the image); ``text`` the texts
            with each other against D, which teaches the tree without touching the images; ``image`` the images with
            each other against the nearest of their labels.
        fit: ``squared`` or ``correlation``.
        balance: ``level`` gives every level of dissimilarity (rounded to tenths) the same total weight, since most
            pairs are at 1; ``none`` weighs all pairs alike.

    Raises:
        ValueError: when called with a batch that has no dissimilarity matrix or no labels.

    Source: Barz & Denzler 2019 (WACV); Bertinetto et al. 2020 (CVPR); metric multidimensional scaling, Kruskal 1964.

    Examples:
        Two conditions at D = 0.4 whose texts are at right angles, at a cosine distance of 1:

        >>> import torch
        >>> from siglip_med.losses import PairBatch
        >>> zero, own = torch.tensor(0.0), torch.eye(2)
        >>> batch = PairBatch.build(own, own, zero, zero, own, torch.arange(2), torch.tensor([[0, 0.4], [0.4, 0]]))
        >>> round(IcdGeometric(pairs="text")(batch).item(), 4)  # (1 - 0.4) ** 2
        0.36
    """

    pairs: Literal["cross", "text", "image"] = "cross"
    fit: Literal["squared", "correlation"] = "squared"
    balance: Literal["level", "none"] = "level"

    def __call__(self, batch: PairBatch) -> Tensor:
        cosine, dissimilarity, valid = self._compared(batch)
        weight = self._weights(dissimilarity, valid)
        distance = 1.0 - cosine
        if self.fit == "correlation":
            loss = 1.0 - _correlation(distance, dissimilarity, weight)
            return torch.where(valid.any(), loss, torch.zeros_like(loss)) + batch.zero
        return (weight * (distance - dissimilarity).square()).sum() + batch.zero

    def _compared(self, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Cosine, dissimilarity and validity of each pair."""
        if self.pairs == "cross":
            dissimilarity = batch.min_dissimilarity
            valid = batch.possible.any(dim=1)[:, None].expand_as(dissimilarity)
            return batch.cosine, dissimilarity, valid if batch.undecided is None else valid & ~batch.undecided
        if self.pairs == "text":
            of_others = ~torch.eye(len(batch.text), dtype=torch.bool, device=batch.text.device)
            return batch.text_cosine, batch.text_dissimilarity, of_others
        of_others = ~torch.eye(len(batch.image), dtype=torch.bool, device=batch.image.device)
        return batch.image_cosine, batch.image_dissimilarity, of_others & batch.labeled[:, None] & batch.labeled

    def _weights(self, dissimilarity: Tensor, valid: Tensor) -> Tensor:
        """Of each pair; they sum to 1."""
        level = torch.where(valid, (dissimilarity * _LEVELS).round().clamp(0, _LEVELS).int() + 1, 0)
        # Whole numbers: added up in float32, the pairs of many conditions would stop counting at 2^24.
        count = torch.bincount(level.flatten(), minlength=_LEVELS + 2)
        mass = (count > 0).to(dissimilarity)
        mass[0] = 0.0
        if self.balance == "level":
            mass = mass / count.clamp_min(1)
        return (mass / (mass * count).sum().clamp_min(torch.finfo(mass.dtype).tiny))[level]


def _correlation(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    x = x - (weight * x).sum()
    y = y - (weight * y).sum()
    variances = (weight * x.square()).sum() * (weight * y.square()).sum()
    # All distances equal, or all dissimilarities: no correlation is defined, and this reads it as 0.
    return (weight * x * y).sum() / (variances + torch.finfo(x.dtype).eps).sqrt()
