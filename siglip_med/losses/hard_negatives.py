"""The hard-negative margin loss: the most confusable wrong texts of each image."""

from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from siglip_med.core.ranges import Share
from siglip_med.losses.pair_batch import PairBatch


@dataclass(frozen=True)
class HardNegatives:
    """Hinge of ``margin + slack S_ij + cos_ij - mean positive cos_i`` over the hardest non-positives of each image.

    The loss is the mean over the chosen pairs; 0 where there is none. Images without a positive are left out.

    Args:
        margin: how far below its positives a negative should stay, in cosine.
        slack: extra margin per unit of ICD dissimilarity: distant conditions should stay further away.
        k: negatives of each image, the largest hinges first; fewer where there are fewer.
        exclude_within: texts whose condition is this near to a label of the image (S at most this) are no negatives:
            0.4 leaves out the same category. None keeps them all.
        exclude_colisted: leave out conditions that any image of the batch has together with one of this image's.
        semi_hard: only negatives that are already further away than the positives (Schroff et al. 2015).

    Raises:
        ValueError: when called with a batch that has no dissimilarity matrix or no labels, and ``slack``,
            ``exclude_within`` or ``exclude_colisted`` is used (give ``slack=0, exclude_within=None`` for image-caption
            pairs).

    Source: Schroff et al. 2015 (FaceNet); Faghri et al. 2018 (VSE++); Robinson et al. 2021.

    Examples:
        A negative that is as near as the positive violates the margin by all of it:

        >>> import torch
        >>> from siglip_med.losses import PairBatch
        >>> same, zero = torch.ones(2, 1), torch.tensor(0.0)
        >>> batch = PairBatch.from_targets(same, same, zero, zero, torch.eye(2))
        >>> round(HardNegatives(margin=0.2, slack=0.0, exclude_within=None)(batch).item(), 4)
        0.2
    """

    margin: NonNegativeFloat = 0.2
    slack: NonNegativeFloat = 0.1
    k: PositiveInt = 5
    exclude_within: Share | None = 0.4
    exclude_colisted: bool = False
    semi_hard: bool = False

    def __call__(self, batch: PairBatch) -> Tensor:
        positive = batch.targets > 0
        count = positive.sum(dim=1, keepdim=True)
        positive_cosine = (batch.cosine * positive).sum(dim=1, keepdim=True) / count.clamp_min(1)
        negative = ~positive & (count > 0)
        if batch.undecided is not None:
            negative &= ~batch.undecided
        if self.exclude_within is not None:
            # D is made of tenths that binary fractions only approximate.
            negative &= batch.min_dissimilarity > self.exclude_within + 1e-6
        if self.exclude_colisted:
            negative &= ~_colisted(batch)
        if self.semi_hard:
            negative &= batch.cosine < positive_cosine
        violation = self.margin + batch.cosine - positive_cosine
        if self.slack:
            violation = violation + self.slack * batch.min_dissimilarity
        hardest = violation.masked_fill(~negative, -torch.inf).topk(min(self.k, violation.shape[1]), dim=1).values
        chosen = hardest.isfinite()
        hinge = torch.where(chosen, hardest, torch.zeros_like(hardest)).relu()
        return hinge.sum() / chosen.sum().clamp_min(1) + batch.zero


def _colisted(batch: PairBatch) -> Tensor:
    positive = (batch.needed("labels") > 0).to(batch.text.dtype)
    with torch.autocast(positive.device.type, enabled=False):
        together = (positive.T @ positive > 0).to(positive)
        return (positive @ together > 0)[:, batch.needed("text_condition")]
