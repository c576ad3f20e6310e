"""The ICD geometric loss: distances between embeddings follow the dissimilarity matrix D."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from siglip_med.losses.pair_batch import PairBatch

Pairs = Literal["cross", "text", "image"]
Fit = Literal["squared", "correlation"]
Balance = Literal["level", "none"]

_LEVELS = 10
_BLOCK = 256


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

    Examples:
        Two conditions at D = 0.4 whose texts are at right angles, at a cosine distance of 1:

        >>> import torch
        >>> from siglip_med.losses import PairBatch
        >>> zero, own = torch.tensor(0.0), torch.eye(2)
        >>> batch = PairBatch.build(own, own, zero, zero, own, torch.arange(2), torch.tensor([[0, 0.4], [0.4, 0]]))
        >>> round(icd_geometric(batch, pairs="text").item(), 4)  # (1 - 0.4) ** 2
        0.36
    """
    if fit == "squared" and pairs != "cross":
        x, table, usable = _own_kind(batch, pairs)
        with torch.autocast(x.device.type, enabled=False):
            return _SquaredFit.apply(x, table, usable, balance) + batch.zero  # type: ignore[no-untyped-call]
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
    return _each_pair_once(*_own_kind(batch, pairs))


def _own_kind(batch: PairBatch, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """``[n, E]`` embeddings that are compared with each other, ``[n, n]`` how far apart, and ``[n]`` which count."""
    if pairs == "text":
        return batch.text, batch.text_dissimilarity, torch.ones_like(batch.text[:, 0], dtype=torch.bool)
    return batch.image, batch.image_dissimilarity, batch.labeled


def _each_pair_once(x: Tensor, dissimilarity: Tensor, usable: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine, dissimilarity and validity of the pairs i < j of one kind, flat: half the work of all pairs.

    Rows are taken in blocks, and each block meets the columns from its own first row on; what lies below the diagonal
    of a block is there but not valid.
    """
    blocks = _blocks(len(x))
    later = torch.arange(len(x), device=x.device)
    valid = [usable[i:j, None] & usable[i:] & (later[i:j, None] < later[i:]) for i, j in blocks]
    with torch.autocast(x.device.type, enabled=False):
        cosine = _UpperCosine.apply(x)  # type: ignore[no-untyped-call]
    return (
        cosine,
        torch.cat([dissimilarity[i:j, i:].flatten() for i, j in blocks]),
        torch.cat([block.flatten() for block in valid]),
    )


def _blocks(rows: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BLOCK, rows)) for start in range(0, rows, _BLOCK)]


class _UpperCosine(torch.autograd.Function):
    """The blocks of ``x @ x.T`` on and above the diagonal, flat; autograd would fill a whole matrix for each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.cat([(x[i:j] @ x[i:].T).flatten() for i, j in _blocks(len(x))])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result, start = torch.zeros_like(x), 0
        for i, j in _blocks(len(x)):
            shape = (j - i, len(x) - i)
            block = gradients[0][start : start + shape[0] * shape[1]].view(shape)
            result[i:j] += block @ x[i:]
            result[i:] += block.T @ x[i:j]
            start += block.numel()
        return result


class _SquaredFit(torch.autograd.Function):
    """``sum w (d - s)^2`` over the pairs i < j of one kind.

    The gradient of a square is known with its value, so both are computed block by block while the block is at hand:
    of many texts, no matrix is held but D.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dissimilarity: Tensor, usable: Tensor, balance: Balance) -> Tensor:
        blocks = _blocks(len(x))
        share = _shares(dissimilarity, usable, balance).to(x.dtype)
        loss, gradient = x.new_zeros(()), torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        for i, j in blocks:
            target = dissimilarity[i:j, i:].to(x.dtype)
            weight = _pairs_once(share.index_select(0, _levels(target).flatten()).view_as(target), usable, i, j)
            # 1 - cosine - s, in place of three matrices.
            error = torch.addmm(1.0 - target, x[i:j], x[i:].T, alpha=-1.0)
            weight.mul_(error)
            loss += torch.dot(weight.flatten(), error.flatten())
            if gradient is not None:
                gradient[i:j].addmm_(weight, x[i:], alpha=-2.0)
                gradient[i:].addmm_(weight.T, x[i:j], alpha=-2.0)
        ctx.gradient = gradient
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return gradients[0] * ctx.gradient, None, None, None


def _levels(dissimilarity: Tensor) -> Tensor:
    return (dissimilarity * _LEVELS).round_().clamp_(0, _LEVELS).int()


def _shares(dissimilarity: Tensor, usable: Tensor, balance: Balance) -> Tensor:
    """``[levels]`` weight of a pair of each level of dissimilarity; over all pairs they sum to 1."""
    count = dissimilarity.new_zeros(_LEVELS + 1)
    for i, j in _blocks(len(usable)):
        # 0 stands for a pair that is not counted.
        level = _pairs_once(_levels(dissimilarity[i:j, i:]).add_(1), usable, i, j)
        count += torch.bincount(level.flatten(), minlength=_LEVELS + 2)[1:].to(count)
    mass = (count > 0).to(count)
    if balance == "level":
        mass /= count.clamp_min(1.0)
    return mass / (mass * count).sum().clamp_min(torch.finfo(mass.dtype).tiny)


def _pairs_once(values: Tensor, usable: Tensor, start: int, stop: int) -> Tensor:
    """A block of rows from its own first column on, with zeros where a pair does not count or stands there twice."""
    values.triu_(1)
    return values.mul_(usable[start:stop, None]).mul_(usable[start:])


def _weights(dissimilarity: Tensor, valid: Tensor, balance: Balance) -> Tensor:
    mass = valid.to(dissimilarity)
    if balance == "level":
        level = (dissimilarity * _LEVELS).round_().clamp_(0, _LEVELS).long().flatten()
        count = mass.new_zeros(_LEVELS + 1).index_add(0, level, mass.flatten())
        mass = mass * (1.0 / count.clamp_min(1.0)).index_select(0, level).view_as(mass)
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
