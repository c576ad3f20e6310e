"""Logit adjustment: while training, frequent conditions start ahead, so that they are not favored afterwards."""

import torch
from torch import Tensor

from siglip_med.losses.pair_batch import PairBatch


def adjusted_logits(batch: PairBatch, adjustment: float) -> Tensor:
    """The logits plus ``adjustment`` times the logarithm of how frequent each text's condition is in training.

    Only losses adjust: a model is evaluated by its plain logits. The logarithms are centered on their mean over the
    conditions, which no softmax notices and which leaves a sigmoid's common bias where it was.

    Args:
        batch: the pairs, with the images of each condition that training draws; one without an image counts as one.
        adjustment: tau; 0 adjusts nothing and needs no counts, 1 aims at the mean over conditions of their recalls.

    Returns:
        ``[B, T]``.

    Raises:
        ValueError: ``adjustment`` is not 0 and the batch has no condition counts.

    Source: Menon et al. 2021 (ICLR), arXiv 2007.07314, equation 10; as a bias of each condition's sigmoid: ours.
    """
    if adjustment == 0:
        return batch.logits
    prior = batch.needed("condition_counts").clamp_min(1.0).log()
    return batch.logits + adjustment * (prior - prior.mean())[batch.needed("text_condition")]


def decided(logits: Tensor, batch: PairBatch) -> Tensor:
    """``[B, T]`` logits without the pairs that broad labels leave undecided: the lowest number there, in no softmax."""
    if batch.undecided is None:
        return logits
    return logits.masked_fill(batch.undecided, torch.finfo(logits.dtype).min)
