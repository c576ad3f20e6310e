"""How far off in the ICD tree: distances of predictions, chapters and blocks, and the shape of the embedding space."""

import numpy as np
from scipy.stats import spearmanr


def label_distance(listed: np.ndarray, dissimilarity: np.ndarray) -> np.ndarray:
    """Distance of every condition to the nearest listed condition of each image, S of the losses.

    Args:
        listed: ``[N, C]`` bool.
        dissimilarity: ``[C, C]`` matrix D.

    Returns:
        ``[N, C]`` float64: S[i, c] = min over the labels k of image i of D[k, c]; 0 for every listed condition,
        infinite where an image lists nothing. Source: Bertinetto et al., CVPR 2020 (single label); the minimum over
        labels is ours.
    """
    distance = np.full(listed.shape, np.inf)
    for condition in np.flatnonzero(listed.any(axis=0)):
        rows = listed[:, condition]
        distance[rows] = np.minimum(distance[rows], dissimilarity[condition])
    return distance


def same_ancestor(listed: np.ndarray, ancestors: tuple[str, ...]) -> np.ndarray:
    """``[N, C]`` bool: does condition c share its chapter (or block) with any listed condition of image i?

    Args:
        listed: ``[N, C]`` bool.
        ancestors: the C chapters or blocks.
    """
    names, index = np.unique(np.asarray(ancestors, dtype=str), return_inverse=True)
    membership = np.eye(len(names), dtype=np.int64)[index]
    present = listed.astype(np.int64) @ membership > 0
    return present[:, index]


def spearman_embedding_distance(embeddings: np.ndarray, dissimilarity: np.ndarray) -> float:
    """Spearman correlation, over all pairs of conditions, of cosine distance with D.

    Args:
        embeddings: ``[C, E]``, one a condition (need not be normalized).
        dissimilarity: ``[C, C]`` matrix D.

    Returns:
        The coefficient in [-1, 1]; NaN with fewer than three conditions or where one side is constant. Call it on the
        zero-shot and on the fine-tuned embeddings for "before and after". Source: scipy.stats.spearmanr.
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
    """The same correlation for images: the mean embedding of each condition that is some image's primary one.

    Args:
        image_embeddings: ``[N, E]``, or empty.
        primary: ``[N]`` int.
        dissimilarity: ``[C, C]`` matrix D.

    Returns:
        The coefficient in [-1, 1]; NaN without embeddings or with fewer than three conditions.
    """
    if len(image_embeddings) == 0:
        return float("nan")
    present = np.unique(primary)
    means = np.stack([image_embeddings[primary == condition].mean(axis=0) for condition in present])
    return spearman_embedding_distance(means, dissimilarity[np.ix_(present, present)])
