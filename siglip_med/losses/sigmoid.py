"""The multi-positive weighted sigmoid loss: the contrastive core, and the final contrastive layer."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

from siglip_med.losses.adjustment import adjusted_logits
from siglip_med.losses.pair_batch import PairBatch

Reduction = Literal["balanced", "mean", "sum_over_n"]
PosWeight = float | Literal["batch", "condition"]


@dataclass(frozen=True)
class MultiPositiveSigmoid:
    """Binary cross-entropy of every image-text pair, with several positives per row.

    With targets P and logits z the loss of a pair is ``w_j P softplus(-z) + (1 - P) softplus(z)``; a pair that a broad
    label leaves undecided counts nowhere.

    Args:
        reduction: ``balanced`` is the mean over positives plus the mean over negatives (each weighted by P and
            1 - P), so its size hardly depends on the batch; ``mean`` is the mean over all pairs; ``sum_over_n`` is
            the sum over all pairs divided by the images, which with diagonal targets is SigLIP's own.
        pos_weight: factor w of the positive part: a number; ``batch`` is the number of images less one (at least
            1); ``condition`` is sqrt(median count / count of the condition), clipped to [0.5, 5].
        targets: ``soft`` takes P as it is, ``hard`` takes every P > 0 as 1.
        adjustment: a bias of each condition; see `siglip_med.losses.adjusted_logits`.

    Raises:
        ValueError: when called with a batch that has no condition counts, and ``pos_weight="condition"`` or
            ``adjustment`` is used.

    Source: Zhai et al. 2023, arXiv 2303.15343 (sigmoid loss); Khosla et al. 2020 and Yang et al. 2022 (UniCL) for
    several positives.

    Examples:
        With every logit 0 a pair costs log 2, here for the positives and again for the negatives:

        >>> import torch
        >>> from siglip_med.losses import PairBatch
        >>> image, text = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[0.0, 1], [0, 1]])
        >>> batch = PairBatch.from_targets(image, text, torch.tensor(0.0), torch.tensor(0.0), torch.eye(2))
        >>> round(MultiPositiveSigmoid()(batch).item(), 4)
        1.3863
        >>> round(MultiPositiveSigmoid(reduction="mean")(batch).item(), 4)
        0.6931
    """

    reduction: Reduction = "balanced"
    pos_weight: PosWeight = 1.0
    targets: Literal["soft", "hard"] = "soft"
    adjustment: NonNegativeFloat = 0.0

    def __call__(self, batch: PairBatch) -> Tensor:
        positives = (batch.targets > 0).to(batch.targets) if self.targets == "hard" else batch.targets
        weight = _pos_weight(batch, self.pos_weight)
        logits = adjusted_logits(batch, self.adjustment)
        return weighted_sigmoid(logits, positives, weight, self.reduction, batch.undecided) + batch.zero


def weighted_sigmoid(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | float,
    reduction: Reduction,
    undecided: Tensor | None = None,
) -> Tensor:
    """`MultiPositiveSigmoid` on bare tensors.

    Args:
        logits: ``[B, T]``.
        targets: ``[B, T]`` in [0, 1].
        pos_weight: factor of the positive part, a number or broadcast to ``[B, T]``.
        reduction: see `MultiPositiveSigmoid`.
        undecided: ``[B, T]`` bool, pairs that are left out; None: none is.

    Returns:
        0-dim loss.
    """
    negatives = 1.0 - targets if undecided is None else (1.0 - targets).masked_fill(undecided, 0.0)
    positive_loss = pos_weight * targets * F.softplus(-logits)
    negative_loss = negatives * F.softplus(logits)
    if reduction == "balanced":
        return _share(positive_loss, targets) + _share(negative_loss, negatives)
    total = (positive_loss + negative_loss).sum()
    pairs = targets.numel() if undecided is None else (~undecided).sum().clamp_min(1)
    return total / (pairs if reduction == "mean" else targets.shape[0])


def _share(loss: Tensor, weight: Tensor) -> Tensor:
    mass = weight.sum()
    return loss.sum() / torch.where(mass > 0, mass, torch.ones_like(mass))


def _pos_weight(batch: PairBatch, pos_weight: PosWeight) -> Tensor | float:
    if pos_weight == "batch":
        return float(max(batch.image.shape[0] - 1, 1))
    if pos_weight == "condition":
        counts = batch.needed("condition_counts")
        seen = torch.where(counts > 0, counts, torch.nan)
        weight = (seen.nanquantile(0.5) / counts.clamp_min(1e-6)).sqrt().clamp(0.5, 5.0)
        # No condition was ever seen: none is known to be rare.
        weight = weight.nan_to_num(1.0)
        return weight[batch.needed("text_condition")]
    return float(pos_weight)
