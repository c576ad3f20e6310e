"""InfoNCE: cross-entropy over the texts of the pool and over the images of the batch."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

from siglip_med.core.errors import UserError
from siglip_med.losses.adjustment import adjusted_logits, decided
from siglip_med.losses.pair_batch import PairBatch


@dataclass(frozen=True)
class InfoNCE:
    """Cross-entropy against the positives, shared evenly over several of them (by weight, where P has weights).

    With diagonal targets it is CLIP's loss; with several positives UniCL's. Images without a positive text and texts
    without a positive image are left out; a text that a broad
    label of an image leaves undecided is in no softmax with it.

    Args:
        direction: ``image_to_text`` is a softmax over the texts of each image, ``text_to_image`` over the images of
            each text, ``both`` their mean.
        adjustment: of the softmax over the texts; see `siglip_med.losses.adjusted_logits`.

    Raises:
        UserError: ``adjustment`` is given with ``text_to_image``, where it changes nothing.

    Source: Radford et al. 2021 (CLIP); Yang et al. 2022 (UniCL).

    Examples:
        Where all logits are equal it is the logarithm of the number of candidates:

        >>> import torch
        >>> from siglip_med.losses import PairBatch
        >>> same = torch.ones(8, 2)
        >>> batch = PairBatch.from_targets(same, same, torch.tensor(0.0), torch.tensor(0.0), torch.eye(8))
        >>> round(InfoNCE()(batch).item(), 4)  # log 8
        2.0794
    """

    direction: Literal["both", "image_to_text", "text_to_image"] = "both"
    adjustment: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        if self.adjustment and self.direction == "text_to_image":
            raise UserError(
                "the InfoNCE term's adjustment changes nothing in a softmax over images: "
                "set it to 0, or direction to image_to_text or both"
            )

    def __call__(self, batch: PairBatch) -> Tensor:
        losses = []
        if self.direction != "text_to_image":
            logits = decided(adjusted_logits(batch, self.adjustment), batch)
            losses.append(_cross_entropy(logits, batch.targets))
        if self.direction != "image_to_text":
            losses.append(_cross_entropy(decided(batch.logits, batch).T, batch.targets.T))
        return torch.stack(losses).mean() + batch.zero


def _cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    mass = positives.sum(dim=1, keepdim=True)
    share = positives / torch.where(mass > 0, mass, torch.ones_like(mass))
    row = -(share * F.log_softmax(logits, dim=1)).sum(dim=1)
    return row.sum() / (mass > 0).sum().clamp_min(1)
