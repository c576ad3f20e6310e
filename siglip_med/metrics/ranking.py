"""Retrieval metrics: vectorised functions of plain arrays, one value per image (or condition).

A condition is *positive* for an image if its label is above 0. Ties count against the model: at equal scores a
negative condition goes first (the pessimistic rank of Berrendorf et al. 2020, arXiv 2002.06914), so a collapsed model
that scores every condition alike earns nothing.
"""

import numpy as np


def condition_order(logits: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """``[N, C]`` conditions of each image, best first; ``positive`` decides nothing but ties."""
    return np.lexsort((positive, -logits), axis=-1)


def condition_ranks(order: np.ndarray) -> np.ndarray:
    """``[N, C]`` rank of every condition, 1 is best: the inverse of `condition_order`."""
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, order.shape[1] + 1)[None], axis=1)
    return ranks


def best_rank(ranks: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """``[N]`` rank of the best of each image's positive conditions (C + 1 where it has none)."""
    return np.where(positive, ranks, ranks.shape[1] + 1).min(axis=1)


def average_precision(order: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """``[N]`` mean, over an image's positive conditions, of the share of positive ones among those ranked as high.

    Equals scikit-learn's ``label_ranking_average_precision_score`` of each image; NaN where nothing is positive.
    Source: Manning, Raghavan & Schütze, *Introduction to Information Retrieval*, section 8.4.
    """
    hits = np.take_along_axis(positive, order, axis=1)
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (precision * hits).sum(axis=1) / hits.sum(axis=1)


def ndcg(order: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``[N]`` normalized discounted cumulative gain, gain = label weight, discount 1 / log2(1 + rank).

    Equals scikit-learn's ``ndcg_score(labels, logits, ignore_ties=True)`` of each image; NaN where nothing is positive.
    Source: Järvelin & Kekäläinen, ACM TOIS 2002.
    """
    discount = 1.0 / np.log2(np.arange(2, labels.shape[1] + 2))
    gains = np.take_along_axis(labels.astype(np.float64), order, axis=1) @ discount
    ideal = -np.sort(-labels.astype(np.float64), axis=1) @ discount
    with np.errstate(invalid="ignore", divide="ignore"):
        return gains / ideal


def text_to_image(logits: np.ndarray, positive: np.ndarray, ks: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """Each condition's prompt as a query over all images.

    Returns:
        ``t2i_r_at_K``: share of conditions with at least one relevant image among the K best; ``t2i_precision_at_K``:
        mean share of relevant images among the K best; ``t2i_conditions``: how many conditions have a relevant image
        (the others are left out of every mean).

    Examples:
        >>> text_to_image(np.array([[0.9], [0.1]]), np.array([[True], [False]]), ks=(1,))
        {'t2i_conditions': 1.0, 't2i_r_at_1': 1.0, 't2i_precision_at_1': 1.0}
    """
    asked = np.flatnonzero(positive.any(axis=0))
    order = condition_order(logits.T[asked], positive.T[asked])
    hits = np.take_along_axis(positive.T[asked], order, axis=1)
    result = {"t2i_conditions": float(len(asked))}
    for k in ks:
        found = hits[:, :k]
        result[f"t2i_r_at_{k}"] = float(found.any(axis=1).mean()) if len(asked) else float("nan")
        result[f"t2i_precision_at_{k}"] = float(found.mean(axis=1).mean()) if len(asked) else float("nan")
    return result
