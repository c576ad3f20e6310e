"""The baseline of every frozen tower, on the kept features of a bench."""

import numpy as np
import torch

from experiments.heads import Bench
from siglip_med.metrics import Predictions, fit_probe


def logistic_regression(bench: Bench) -> dict[str, Predictions]:
    """Scores of a probe in place of heads, for ``val`` and ``test``; C is chosen on validation."""
    batches = list(bench.components.data.full_loader("train"))
    values = torch.cat([batch.images for batch in batches]).numpy()
    primary = bench.components.data.table.frame["primary"].to_numpy()
    labels: np.ndarray = primary[torch.cat([batch.index for batch in batches]).numpy()]
    features = {split: kept.numpy() for split, kept in bench.features.items()}
    probe = fit_probe(values, labels, features["val"], bench.frames["val"].primary)
    return {split: probe.predict(features[split], frame) for split, frame in bench.frames.items()}
