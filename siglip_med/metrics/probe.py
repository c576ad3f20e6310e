"""The baseline of every frozen tower: logistic regression on its image features."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from siglip_med.metrics.predictions import Predictions

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Inverse regularization C; the first condition's validation accuracy chooses."""
_UNSEEN = -1e9
_ITERATIONS = 500


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        model: scikit-learn's, on standardized features; None where the training split has one condition alone.
        classes: ``[K]`` columns of the conditions that some training image has as its first.
        strength: C, chosen on validation.
        images: training images that it was fitted on; ``of`` so many there are.
        converged: whether the solver did in its 500 iterations.
    """

    model: Any
    classes: np.ndarray
    strength: float
    images: int
    of: int
    converged: bool

    def predict(self, features: np.ndarray, frame: Predictions) -> Predictions:
        """Its scores of ``[N, F]`` features for the images of ``frame``; a condition that training lacks comes last."""
        logits = np.full(frame.logits.shape, _UNSEEN, dtype=np.float32)
        if self.model is None:
            logits[:, self.classes] = 0.0
        else:
            scores = self.model.decision_function(features)
            logits[:, self.classes] = np.stack([-scores, scores], axis=1) / 2 if scores.ndim == 1 else scores
        none = np.empty((0, 0), dtype=np.float32)
        return replace(frame, logits=logits, image_embeddings=none, meta={"probe": self.about()})

    def about(self) -> str:
        """How it was fitted, in words."""
        images = f"{self.images:,} of {self.of:,}" if self.images < self.of else f"all {self.of:,}"
        unsure = "" if self.converged else f", stopped after {_ITERATIONS} iterations"
        return f"logistic regression on {images} training images, C={self.strength:g} by validation{unsure}"


def fit_probe(
    features: np.ndarray,
    primary: np.ndarray,
    val_features: np.ndarray,
    val_primary: np.ndarray,
    of: int | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> LinearProbe:
    """Fits one logistic regression per strength, and keeps the one that names most first conditions of validation.

    Args:
        features: ``[N, F]`` training features of a frozen tower.
        primary: ``[N]`` first condition of each.
        val_features: ``[V, F]`` features of validation, which choose C and nothing else.
        val_primary: ``[V]`` first condition of each.
        of: training images that there are, where ``features`` are of some of them.
        strengths: the C to choose among; the first of equally good ones is taken.

    Source: the linear evaluation of Radford et al. 2021, arXiv 2103.00020, appendix A.3.
    """
    # slow to import, and most who import metrics fit nothing
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    of = len(features) if of is None else of
    classes = np.unique(primary)
    if len(classes) < 2:
        return LinearProbe(None, classes, 0.0, len(features), of, True)
    fitted = []
    for strength in strengths:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=_ITERATIONS))
        # hundreds of small products: threads wait for each other longer than they compute
        with warnings.catch_warnings(record=True) as caught, threadpool_limits(1):
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(features, primary)
        converged = not any(issubclass(item.category, ConvergenceWarning) for item in caught)
        fitted.append((model.score(val_features, val_primary), model, strength, converged))
    _, model, strength, converged = max(fitted, key=lambda one: one[0])  # the first of equally good ones
    return LinearProbe(model, classes, strength, len(features), of, converged)
