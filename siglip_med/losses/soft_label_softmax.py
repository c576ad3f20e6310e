"""Softmax over the prompts with targets softened by D."""

from dataclasses import dataclass

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from siglip_med.losses.adjustment import adjusted_logits, decided
from siglip_med.losses.pair_batch import PairBatch


@dataclass(frozen=True)
class SoftLabelSoftmax:
    """Cross-entropy over the prompts of each image with targets ``softmax(-S / temperature)``.

    The loss is the mean over the labeled images; 0 where there is none. A text that a broad label of an image leaves
    undecided is in no softmax with it.

    Args:
        temperature: how far the target spreads over the tree, in units of D. Near 0 only the image's own conditions
            have a share.
        adjustment: see `siglip_med.losses.adjusted_logits`.

    Raises:
        ValueError: when called with a batch that has no dissimilarity matrix or no labels.

    Source: Bertinetto et al. 2020 (CVPR), "soft labels".

    Examples:
        Where all logits are equal it is the logarithm of the number of prompts, whatever the targets:

        >>> import torch
        >>> from siglip_med.losses import PairBatch
        >>> zero, same, own = torch.tensor(0.0), torch.ones(3, 1), torch.eye(3)
        >>> batch = PairBatch.build(same, same, zero, zero, own, torch.arange(3), 1 - own)
        >>> round(SoftLabelSoftmax()(batch).item(), 4)  # log 3
        1.0986
    """

    temperature: PositiveFloat = 0.1
    adjustment: NonNegativeFloat = 0.0

    def __call__(self, batch: PairBatch) -> Tensor:
        target = F.softmax(decided(-batch.min_dissimilarity / self.temperature, batch), dim=1)
        log_probability = F.log_softmax(decided(adjusted_logits(batch, self.adjustment), batch), dim=1)
        row = -(target * log_probability).sum(dim=1)
        judged = batch.labeled if batch.undecided is None else batch.labeled & ~batch.undecided.all(dim=1)
        return (row * judged).sum() / judged.sum().clamp_min(1) + batch.zero
