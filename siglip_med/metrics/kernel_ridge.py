"""The last layer in closed form: kernel ridge regression of labels and the ICD-10 tree on pooled image features."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.blas import dsyrk

from siglip_med.metrics.blocks import blocks
from siglip_med.metrics.calibration import fit_calibration
from siglip_med.metrics.predictions import Predictions
from siglip_med.metrics.ranking import best_rank, condition_order, condition_ranks

WIDTHS, RIDGES, TREES = (0.125, 0.25, 0.5, 1.0, 2.0), (0.03, 0.01, 0.1, 0.3, 1.0), (0.0, 0.1, 0.2, 0.4)
"""What validation chooses among: a width under the first ridge, then a ridge for it, then a tree."""
COST = 0.002
"""MRR on validation that the tree may cost."""
EXACT = 5_000
"""Training images up to which the system is solved exactly; above that `EXACT` of them are the centers (Nyström)."""
_JITTER = 1e-6


@dataclass(frozen=True)
class KernelRidge:
    """A fitted kernel ridge regression.

    Attributes:
        mean, scale: ``[F]``, by which features are standardized.
        centers: ``[M, F]`` standardized features of training images.
        weights: ``[M, C]`` of each center and condition.
        offset: ``[C]`` mean target.
        width: of the kernel exp(-width · squared distance / F).
        ridge: lambda of the penalty.
        tree: eta, weight of nearness in ICD-10 in the targets.
        images: training images that it was fitted on; ``of`` so many there are.
        of: see ``images``.
    """

    mean: np.ndarray
    scale: np.ndarray
    centers: np.ndarray
    weights: np.ndarray
    offset: np.ndarray
    width: float
    ridge: float
    tree: float
    images: int
    of: int

    def scores(self, features: np.ndarray) -> np.ndarray:
        """``[N, C]`` float32 of ``[N, F]`` features: the higher, the likelier; no probabilities."""
        standard = (features - self.mean) / self.scale
        found = [rbf(standard[r], self.centers, self.width) @ self.weights + self.offset for r in blocks(len(standard))]
        return np.concatenate(found or [np.empty((0, len(self.offset)))]).astype(np.float32)

    def predict(self, features: np.ndarray, frame: Predictions) -> Predictions:
        """Its scores of ``[N, F]`` features for the images of ``frame``, without embeddings."""
        none = np.empty((0, 0), dtype=np.float32)
        return replace(frame, logits=self.scores(features), image_embeddings=none, meta={"probe": self.about()})

    def calibrated(self, val_features: np.ndarray, val: Predictions) -> "KernelRidge":
        """The same order with scores that are logits: temperature and bias of `fit_calibration` on validation inside.

        Its arrays are rounded to float32, so that what is stored of it scores as it does; ``val_features`` are
        ``[V, F]`` of the images of ``val``. Raises what `fit_calibration` does.
        """
        found = fit_calibration(self.predict(val_features, val))
        weights, offset = self.weights / found.temperature, self.offset / found.temperature + found.bias
        rounded: dict[str, Any] = replace(self, weights=weights, offset=offset).arrays()
        return replace(self, **{name: value.astype(np.float64) for name, value in rounded.items() if value.ndim})

    def arrays(self) -> dict[str, np.ndarray]:
        """All that scoring needs, as float32: the attributes of these names."""
        names = ("mean", "scale", "centers", "weights", "offset", "width")
        return {name: np.array(getattr(self, name), dtype=np.float32, order="C") for name in names}

    def about(self) -> str:
        """How it was fitted, in words."""
        images = f"{self.images:,} of {self.of:,}" if self.images < self.of else f"all {self.of:,}"
        tree = f"tree {self.tree:g}" if self.tree else "no tree"
        return (
            f"kernel ridge regression on {images} training images, width {self.width:g}, ridge {self.ridge:g}, {tree} "
            "by validation"
        )


def fit_kernel_ridge(
    features: np.ndarray,
    labels: np.ndarray,
    val_features: np.ndarray,
    val: Predictions,
    trees: Sequence[float] = TREES,
    of: int | None = None,
) -> KernelRidge:
    """Fits a width, then a ridge, by MRR on validation, then takes the largest tree that costs little of it.

    Ridge regression in closed form, scores = K(x, X) (K(X, X) + ridge I)^-1 (T - mean T) + mean T, with an RBF kernel
    on standardized features. T = labels + eta · (labels, each row summing to one) · (1 - D): each target leans towards
    the conditions that are near in ICD-10.

    Args:
        features: ``[N, F]`` pooled features of the training images.
        labels: ``[N, C]`` in [0, 1].
        val_features: ``[V, F]`` of the images of ``val``, which chooses width, ridge and tree and nothing else.
        val: V images, with D.
        trees: eta to choose among, ascending, the first 0: the largest whose MRR is within `COST` of eta 0's is taken.
        of: training images that there are, where ``features`` are of some of them.

    Source: kernel ridge regression, Saunders et al. 1998; hierarchy-based class embeddings as targets, Barz & Denzler
    2019, arXiv 1809.09924; the Nyström form, Rudi et al. 2015, arXiv 1507.04717.
    """
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 0, scale, 1.0)
    x, v = ((one - mean) / scale for one in (features, val_features))
    targets = tree_targets(labels, val.dissimilarity)
    # drawn without a seed of the run: every image is as good a center as any other, and the draw must not move
    chosen = np.random.default_rng(0).permutation(len(x))[:EXACT] if len(x) > EXACT else np.arange(len(x))
    solve = partial(_best, x[chosen], [target[chosen] for target in targets], v, val)
    best = max((solve(width, RIDGES[:1]) for width in WIDTHS), key=lambda one: one.mrr)
    best = solve(best.width, RIDGES)
    plain, lean = best.scores
    tree = max((eta for eta in trees if _mrr(val, plain + eta * lean) >= best.mrr - COST), default=0.0)
    target, weights = targets[0] + tree * targets[1], best.weights[0] + tree * best.weights[1]
    width, ridge = best.width, best.ridge
    if len(x) > EXACT:
        weights = _nystroem(x, target, x[chosen], width, ridge)
    return KernelRidge(
        mean, scale, x[chosen], weights, target.mean(axis=0), width, ridge, tree, len(x), len(x) if of is None else of
    )


@dataclass(frozen=True)
class _Solution:
    """Weights for the labels and for what eta = 1 adds to them, their scores of validation, MRR of the labels alone."""

    mrr: float
    width: float
    ridge: float
    weights: list[np.ndarray]
    scores: list[np.ndarray]


def _best(
    x: np.ndarray, parts: list[np.ndarray], v: np.ndarray, val: Predictions, width: float, ridges: Sequence[float]
) -> _Solution:
    """Of some ridges, the one with the best MRR on validation; scores are linear in the targets, part by part."""
    among, towards = rbf(x, x, width), rbf(v, x, width)
    found = []
    for ridge in ridges:
        gram = among.copy().T  # symmetric, and as Fortran lays it out: not copied again
        gram[np.diag_indices_from(gram)] += ridge
        factor = cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
        weights = [cho_solve(factor, part - part.mean(axis=0)) for part in parts]
        scores = [towards @ one + part.mean(axis=0) for one, part in zip(weights, parts, strict=True)]
        found.append(_Solution(_mrr(val, scores[0]), width, ridge, weights, scores))
    return max(found, key=lambda one: one.mrr)


def tree_targets(labels: np.ndarray, dissimilarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Targets without the tree, and what eta = 1 adds to them; both ``[N, C]``. No positive: a row leans nowhere."""
    labels = labels.astype(np.float64)
    total = labels.sum(axis=1, keepdims=True)
    shares = np.divide(labels, total, out=np.zeros_like(labels), where=total > 0)
    return labels, shares @ (1.0 - dissimilarity)


def rbf(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """``[A, B]`` kernel exp(-width · squared distance / F) of ``[A, F]`` and ``[B, F]``."""
    kernel: np.ndarray = a @ (-2.0 * b.T)  # in place from here on: it is the largest array there is
    kernel += (a**2).sum(axis=1)[:, None]
    kernel += (b**2).sum(axis=1)
    np.maximum(kernel, 0.0, out=kernel)
    kernel *= -width / a.shape[1]
    return np.exp(kernel, out=kernel)


def _nystroem(x: np.ndarray, target: np.ndarray, centers: np.ndarray, width: float, ridge: float) -> np.ndarray:
    """Weights of the centers that fit all N images: (K_MN K_NM + ridge K_MM)^-1 K_MN (T - mean T), block by block."""
    gram = (ridge * rbf(centers, centers, width)).T  # as Fortran lays it out
    gram[np.diag_indices_from(gram)] += _JITTER * len(x)
    right, centered = np.zeros((len(centers), target.shape[1])), target - target.mean(axis=0)
    for rows in blocks(len(x)):
        block = rbf(x[rows], centers, width)
        gram = dsyrk(1.0, block.T, beta=1.0, c=gram, lower=1, overwrite_c=1)  # its lower half alone
        right += block.T @ centered[rows]
    return cho_solve(cho_factor(gram, lower=True, overwrite_a=True, check_finite=False), right)


def _mrr(val: Predictions, scores: np.ndarray) -> float:
    ranks = condition_ranks(condition_order(scores.astype(np.float32), val.positive))
    return float((1.0 / best_rank(ranks, val.positive)).mean())
