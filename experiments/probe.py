"""The baselines of every frozen tower on the features of a bench, and the refit on those of a tuned one."""

from dataclasses import replace

import numpy as np
import torch
from sklearn.neighbors import KNeighborsRegressor
from torch.nn.functional import normalize

from experiments.heads import Bench
from experiments.tables import NEARNESS
from siglip_med.inference.probe import frozen_features
from siglip_med.metrics import (
    CaseStatistics,
    Predictions,
    fit_kernel_ridge,
    fit_probe,
    headline_metrics,
    spearman_embedding_distance,
)

NEIGHBOURS = (1, 3, 5, 10, 20, 50)
"""k among which validation chooses."""


def training_rows(bench: Bench) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features ``[N, F]`` by the base of the images that the bench trains on, labels ``[N, C]``, first conditions."""
    data = bench.components.data
    if bench.trains_vision:
        rows = data.split.train
        values = bench.features["train"].numpy()[np.searchsorted(bench.split.train, rows)]
    else:
        batches = list(data.full_loader("train"))
        rows = torch.cat([batch.index for batch in batches]).numpy()
        values = torch.cat([batch.images for batch in batches]).numpy()
    return values, data.table.labels[rows], data.table.frame["primary"].to_numpy()[rows]


def logistic_regression(bench: Bench) -> dict[str, Predictions]:
    """Scores of a probe in place of heads, for ``val`` and ``test``; C is chosen on validation."""
    values, _, primary = training_rows(bench)
    probe = fit_probe(values, primary, bench.features["val"].numpy(), bench.frames["val"].primary)
    return {split: probe.predict(bench.features[split].numpy(), frame) for split, frame in bench.frames.items()}


Features = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]
"""Of the images that are trained on ``[N, F]``, their labels ``[N, C]``, and those of ``val`` and ``test``."""


def base_features(bench: Bench) -> Features:
    """By the towers before training."""
    values, labels, _ = training_rows(bench)
    return values, labels, {split: bench.features[split].numpy() for split in bench.frames}


def tuned_features(bench: Bench, others: dict[str, np.ndarray]) -> Features:
    """By the towers as they are now; ``others`` are those of ``val`` and, but while tuning, ``test``."""
    c = bench.components
    values, rows = frozen_features(c.model, c.data, "train")
    return values, c.data.table.labels[rows], others


def kernel_ridge(bench: Bench, trees: list[float], matrix: np.ndarray, features: Features) -> dict[str, Predictions]:
    """Scores of a kernel ridge regression likewise; validation chooses width, ridge and tree.

    Args:
        bench: of the seed.
        trees: weights of the tree to choose among.
        matrix: ``[C, C]`` D of the targets, of which the metrics know nothing.
        features: of `base_features` or `tuned_features`.
    """
    values, labels, others = features
    val = replace(bench.frames["val"], dissimilarity=matrix)
    model = fit_kernel_ridge(values, labels, others["val"], val, trees)
    return {split: model.predict(values, bench.frames[split]) for split, values in others.items()}


def nearest_neighbours(bench: Bench) -> dict[str, Predictions]:
    """Votes of the k nearest training images by cosine, the nearer the weightier; k is chosen on validation."""
    values, labels, _ = training_rows(bench)
    answers: list[tuple[float, dict[str, Predictions]]] = []
    for k in NEIGHBOURS:
        model = KNeighborsRegressor(min(k, len(values)), weights="distance", metric="cosine").fit(values, labels)
        found = {
            split: replace(frame, logits=model.predict(bench.features[split].numpy()).astype(np.float32))
            for split, frame in bench.frames.items()
        }
        answers.append((headline_metrics(found["val"])["mrr"], found))
    return max(answers, key=lambda answer: answer[0])[1]


def nearest_training_image(bench: Bench, split: str) -> np.ndarray:
    """``[n]`` cosine of each image of a split to its nearest training image."""
    train, ours = (normalize(one, dim=-1) for one in (torch.from_numpy(training_rows(bench)[0]), bench.features[split]))
    return (ours @ train.T).amax(dim=1).numpy()


def scores(predictions: Predictions, near: np.ndarray | None = None) -> dict[str, float]:
    """The headline metrics of first answers and lists of five, and the shape of the prompts' embeddings.

    Args:
        predictions: n images.
        near: ``[n]`` cosine to the nearest training image: R@1, R@5 and MRR of the half that is farthest from training,
            and R@1 by nearness, are given besides.
    """
    sums = CaseStatistics.build(predictions, metrics=("mrr",))
    values = sums.whole()
    if near is not None:
        half = scores(predictions.take(np.flatnonzero(near < np.median(near))))
        values |= {f"far_{name}": half[name] for name in ("r_at_1", "r_at_5", "mrr")}
        groups = np.digitize(near, np.quantile(near, NEARNESS[1:-1]))
        for place in range(len(NEARNESS) - 1):
            values[f"near_{place}"] = scores(predictions.take(np.flatnonzero(groups == place)))["r_at_1"]
    shape = spearman_embedding_distance(predictions.text_embeddings, predictions.dissimilarity)
    return {name: round(value, 6) for name, value in {**values, "spearman_text_d": shape}.items()}
