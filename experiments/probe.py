"""The baseline of every frozen tower: logistic regression on its features."""

import warnings
from dataclasses import replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.heads import Bench
from siglip_med.metrics import Predictions

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Inverse regularization C; the first condition's validation accuracy chooses."""


def logistic_regression(bench: Bench) -> dict[str, Predictions]:
    """Scores of a probe in place of heads, for ``val`` and ``test``; C is chosen on validation."""
    batches = list(bench.components.data.full_loader("train"))
    values = torch.cat([batch.images for batch in batches]).numpy()
    primary = bench.components.data.table.frame["primary"].to_numpy()
    labels = primary[torch.cat([batch.index for batch in batches]).numpy()]
    found = []
    for strength in STRENGTHS:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(values, labels)
        accuracy = probe.score(bench.features["val"].numpy(), bench.frames["val"].primary)
        found.append((accuracy, probe))
    best = max(found, key=lambda pair: pair[0])[1]
    result = {}
    for split, frame in bench.frames.items():
        logits = np.full(frame.logits.shape, -1e9, dtype=np.float32)  # a condition without a training image
        logits[:, best.classes_] = best.decision_function(bench.features[split].numpy())
        result[split] = replace(frame, logits=logits)
    return result
