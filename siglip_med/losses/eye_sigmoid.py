"""The diagonal sigmoid loss: the baseline that calls every other image's text a negative."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from siglip_med.losses.pair_batch import PairBatch
from siglip_med.losses.sigmoid import Reduction, weighted_sigmoid


@dataclass(frozen=True)
class EyeSigmoid:
    """The sigmoid loss of images against their own texts, with diagonal targets.

    Each image is paired with one text of the pool, the first of its highest targets (its primary condition). Two
    images of one condition are then negatives of each other: that is what this baseline is for. Images without a
    positive are left out. With ``sum_over_n`` and ``pos_weight=1`` it is SigLIP's own loss.

    Args:
        reduction: see `siglip_med.losses.MultiPositiveSigmoid`.
        pos_weight: factor of the positives; ``batch`` is the number of paired images less one (at least 1).

    Source: Zhai et al. 2023, arXiv 2303.15343.

    Examples:
        >>> import torch
        >>> from siglip_med.losses import PairBatch
        >>> image, text = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[0.0, 1], [0, 1]])
        >>> batch = PairBatch.from_targets(image, text, torch.tensor(0.0), torch.tensor(0.0), torch.eye(2))
        >>> round(EyeSigmoid(reduction="sum_over_n")(batch).item(), 4)  # 2 log 2
        1.3863
    """

    reduction: Reduction = "balanced"
    pos_weight: float | Literal["batch"] = 1.0

    def __call__(self, batch: PairBatch) -> Tensor:
        paired = (batch.targets > 0).any(dim=1).nonzero().squeeze(1)
        if len(paired) == 0:
            return batch.zero
        own_text = batch.targets[paired].argmax(dim=1)
        logits = batch.logits[paired][:, own_text]
        diagonal = torch.eye(len(paired), dtype=logits.dtype, device=logits.device)
        weight = float(max(len(paired) - 1, 1)) if self.pos_weight == "batch" else self.pos_weight
        undecided = None if batch.undecided is None else batch.undecided[paired][:, own_text]
        return weighted_sigmoid(logits, diagonal, weight, self.reduction, undecided) + batch.zero
