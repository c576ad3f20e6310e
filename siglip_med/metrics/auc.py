"""Area under the ROC curve and average precision of one condition against the rest, for many resamples at once."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor


@dataclass(frozen=True)
class OneVsRest:
    """One condition's scores, sorted once, so that any weighting of the cases gives AUC and AP by two products.

    The p distinct scores of the positives cut the negatives into 2p + 1 bins (below, equal, between, ...). A resample
    only changes how much weight lies in each bin; the order never changes.

    Attributes:
        positives: sparse ``[p, G]``, positive images of each case at each distinct positive score, lowest score first.
        negatives: sparse ``[2p + 1, G]``, negative images of each case in each bin; bin 2j + 1 ties with score j.
    """

    positives: csr_matrix
    negatives: csr_matrix

    @classmethod
    def build(cls, scores: np.ndarray, positive: np.ndarray, case: np.ndarray, cases: int) -> "OneVsRest":
        """Sorts ``[N]`` scores once; ``case`` is ``[N]`` in 0..cases-1."""
        levels, level = np.unique(scores[positive], return_inverse=True)
        rest = scores[~positive]
        below = np.searchsorted(levels, rest)
        bins = 2 * below + (np.append(levels, np.nan)[below] == rest)
        # counts stay whole numbers, which float32 holds exactly up to 2^24, at 2.6 times the speed of float64
        ones = np.ones(len(scores), dtype=np.float32 if len(scores) < 2**22 else np.float64)
        return cls(
            csr_matrix((ones[: len(level)], (level, case[positive])), shape=(len(levels), cases)),
            csr_matrix((ones[: len(bins)], (bins, case[~positive])), shape=(2 * len(levels) + 1, cases)),
        )

    def auc_and_precision(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AUC and average precision under ``[G, B]`` weights: how often each case occurs in each of B resamples.

        Computed in the weights' precision; sums over scores are in float64.

        Returns:
            Two ``[B]`` arrays: AUC = share of (positive, negative) pairs in the right order, ties half (Hanley & McNeil
            1982; scikit-learn ``roc_auc_score``), NaN without a positive or a negative; AP = sum of precision times
            recall gain (scikit-learn ``average_precision_score``), NaN without a positive.
        """
        drawn = torch.from_numpy(np.ascontiguousarray(weights))
        positive, negative = _product(self.positives, drawn), _product(self.negatives, drawn)
        cumulated, exact = negative.cumsum(0), torch.float64
        below, ties, total_negative = cumulated[:-1:2], negative[1::2], cumulated[-1]
        total_positive = positive.sum(0, dtype=exact)
        correct = (positive * (below + 0.5 * ties)).sum(0, dtype=exact)
        at_least = positive.flip(0).cumsum(0).flip(0)
        answered = at_least + (total_negative - below)
        # where a resample has nothing at a score or above it, it has no positive there either
        precision = at_least / answered.clamp_min_(1e-12)
        average_precision = (positive * precision).sum(0, dtype=exact) / total_positive
        auc = correct / (total_positive * total_negative)
        return auc.numpy(), average_precision.numpy()


def auc_per_condition(logits: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One-vs-rest AUC and average precision of every condition, from ``[N, C]`` scores and positives.

    Returns:
        Two ``[C]`` arrays (AUC, AP); NaN where a condition has no positive (AUC: or no negative) image. Comparable with
        MedSigLIP's AUC (Sellergren et al. 2025, arXiv 2507.05201).
    """
    one_case, once = np.zeros(len(logits), dtype=np.int64), np.ones((1, 1))
    columns = zip(logits.T, positive.T, strict=True)
    values = [OneVsRest.build(*column, one_case, 1).auc_and_precision(once) for column in columns]
    return np.array([auc[0] for auc, _ in values]), np.array([precision[0] for _, precision in values])


def _product(counts: csr_matrix, weights: Tensor) -> Tensor:
    """``counts @ weights``, ``[p, G] x [G, B]``, an order of magnitude faster than scipy's where B is 100."""
    rows, starts, values = map(torch.from_numpy, (counts.indices, counts.indptr, counts.data))
    values = values.to(weights.dtype)
    return torch.embedding_bag(weights, rows, starts, per_sample_weights=values, include_last_offset=True)[0]
