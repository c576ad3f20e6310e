"""How far off in the ICD tree: distances of predictions, chapters and blocks, and the shape of the embedding space."""

import numpy as np
from scipy.stats import spearmanr


def label_distance(positive: np.ndarray, dissimilarity: np.ndarray) -> np.ndarray:
    """Distance of every condition to the nearest positive condition of each image, S of the losses.

    Args:
        positive: ``[N, C]`` bool.
        dissimilarity: ``[C, C]`` matrix D.

    Returns:
        ``[N, C]`` float64: S[i, c] = min over the labels k of image i of D[k, c]; 0 for every positive condition,
        infinite where an image lists nothing. Source: Bertinetto et al., CVPR 2020 (single label); the minimum over
        labels is ours.

    Examples:
        >>> dissimilarity = np.array([[0.0, 0.4, 1.0], [0.4, 0.0, 0.8], [1.0, 0.8, 0.0]])
        >>> label_distance(np.array([[True, False, True]]), dissimilarity).tolist()
        [[0.0, 0.4, 0.0]]
    """
    distance = np.full(positive.shape, np.inf)
    for condition in np.flatnonzero(positive.any(axis=0)):
        rows = positive[:, condition]
        distance[rows] = np.minimum(distance[rows], dissimilarity[condition])
    return distance


def hops(order: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Hierarchically Ordered Preference Score: are conditions ranked by their distance, the near ones before the far?

    The tree prefers conditions by level: r(i, c) = 0 where c is positive, 1 at the next smallest distance that image i
    has, and so on. Sorted, these levels are what each place of the best order holds; the score compares them with what
    the places of the given order hold, place by place, and 0 is the exact reverse:

    HOPS = max(0, 1 - sum_p w_p |r_best(p) - r(p)| / sum_p w_p |r_best(p) - r_best(C + 1 - p)|).

    The weight of a place starts at 2^-r where its level r begins and falls linearly, over the n places of that level,
    to the 2^-(r + 1) of the next one (to 0 over the last level; it stays 1 over the positives).

    Returns:
        ``[N]`` in [0, 1] of ``[N, C]`` orders, best first, and distances of `label_distance`: 1 for an order that the
        tree has nothing against; NaN where all conditions are as far away. Source: Sani & Anand, Hier-COS, CVPR 2026,
        arXiv 2503.07853 (their code, over all places; one label an image. Levels by the distance to the nearest of
        several labels are ours).

    Examples:
        >>> distance = np.array([[0.0, 0.4, 1.0]])
        >>> [float(hops(np.array([order]), distance)[0]) for order in ([0, 1, 2], [0, 2, 1], [2, 1, 0])]
        [1.0, 0.7, 0.0]
    """
    near_first = np.sort(distance, axis=1)
    rounded = np.round(near_first, 6)
    starts = np.ones(rounded.shape, dtype=bool)
    starts[:, 1:] = rounded[:, 1:] != rounded[:, :-1]
    best = starts.cumsum(axis=1) - 1
    levels = np.empty_like(best)
    np.put_along_axis(levels, np.argsort(distance, axis=1, kind="stable"), best, axis=1)
    weights = _place_weights(best, starts)
    off = weights * np.abs(best - np.take_along_axis(levels, order, axis=1))
    worst = weights * np.abs(best - best[:, ::-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.maximum(0.0, 1.0 - off.sum(axis=1) / worst.sum(axis=1))


def _place_weights(level: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """``[N, C]`` weights of `hops`; ``level`` ascends along each row, and ``starts`` marks the first place of each."""
    places = np.arange(level.shape[1])
    first = np.maximum.accumulate(np.where(starts, places, 0), axis=1)
    ends = np.ones_like(starts)
    ends[:, :-1] = starts[:, 1:]
    last = np.minimum.accumulate(np.where(ends, places, level.shape[1])[:, ::-1], axis=1)[:, ::-1]
    high = 0.5**level
    low = np.where(level == level[:, -1:], 0.0, np.where(level == 0, 1.0, high / 2))
    return high - (high - low) * (places - first) / (last - first + 1)


def same_ancestor(positive: np.ndarray, ancestors: tuple[str, ...]) -> np.ndarray:
    """``[N, C]`` bool: does condition c share its chapter (or block) with any positive condition of image i?"""
    names, index = np.unique(np.asarray(ancestors, dtype=str), return_inverse=True)
    membership = np.eye(len(names), dtype=np.int64)[index]
    present = positive.astype(np.int64) @ membership > 0
    return present[:, index]


def spearman_embedding_distance(embeddings: np.ndarray, dissimilarity: np.ndarray) -> float:
    """Spearman correlation, over all pairs of conditions, of cosine distance with D.

    Args:
        embeddings: ``[C, E]``, one per condition (need not be normalized).
        dissimilarity: ``[C, C]`` matrix D.

    Returns:
        The coefficient in [-1, 1]; NaN with fewer than three conditions or where one side is constant. Call it on the
        zero-shot and on the fine-tuned embeddings for "before and after". Source: scipy.stats.spearmanr.

    Examples:
        >>> embeddings = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> round(spearman_embedding_distance(embeddings, np.array([[0, 0.2, 1.0], [0.2, 0, 0.8], [1.0, 0.8, 0]])), 6)
        1.0
    """
    if len(embeddings) < 3 or embeddings.shape[1] == 0:
        return float("nan")
    unit = embeddings.astype(np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    pairs = np.triu_indices(len(unit), k=1)
    # embeddings are float32: what differs less than its resolution is a tie, as the levels of D are
    distance, reference = np.round((1.0 - unit @ unit.T)[pairs], 6), np.round(dissimilarity[pairs], 6)
    if np.ptp(reference) == 0 or np.ptp(distance) == 0:
        return float("nan")
    return float(spearmanr(distance, reference).statistic)


def spearman_image_prototypes(image_embeddings: np.ndarray, primary: np.ndarray, dissimilarity: np.ndarray) -> float:
    """The same correlation for images, by the mean of ``[N, E]`` embeddings of each primary condition.

    NaN without embeddings or with fewer than three such conditions.
    """
    if len(image_embeddings) == 0:
        return float("nan")
    present = np.unique(primary)
    means = np.stack([image_embeddings[primary == condition].mean(axis=0) for condition in present])
    return spearman_embedding_distance(means, dissimilarity[np.ix_(present, present)])
