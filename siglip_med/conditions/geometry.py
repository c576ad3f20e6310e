"""How far apart conditions are: the matrix D.

The tree is ICD-10-CM's own (chapter, block, category, code) with each condition as a leaf below its code, so that two
conditions that share a code are near, never the same.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from siglip_med.conditions.condition import ConditionSet
from siglip_med.core.errors import UserError

Geometry = Literal["icd", "coarse", "colisting", "blend"]
Measure = Literal["level", "wu_palmer", "path", "prefix"]
GEOMETRIES: tuple[str, ...] = get_args(Geometry)
MEASURES: tuple[str, ...] = get_args(Measure)

SAME_CODE = 0.2
"""D of two conditions with one code: nearest that distinct conditions get."""
SAME_GROUP = 0.5
"""D of two conditions of one coarse group."""
DEEPEST = 8
"""Edges from the root to a condition below a seven-character code."""
BLEND: Mapping[Geometry, float] = {"icd": 0.5, "coarse": 0.5}


def dissimilarity(
    conditions: ConditionSet,
    geometry: Geometry = "icd",
    measure: Measure = "level",
    labels: np.ndarray | None = None,
    weights: Mapping[Geometry, float] | None = None,
) -> np.ndarray:
    """The dissimilarity matrix D of C conditions.

    Geometries:
        icd: the tree of ICD-10-CM, measured by ``measure``.
        coarse: 0.5 within one of the dermatological groups, 1 between groups.
        colisting: 1 − Jaccard index (1912) of the training images of each condition, at least 0.2 off the
            diagonal; conditions without an image are at 1.
        blend: the weighted mean of the others, half icd and half coarse unless ``weights`` is given.

    Measures on the tree:
        level: height of the lowest common ancestor over the height of the tree (Barz & Denzler, WACV 2019), which is
            (5 − level) / 5 with the levels root, chapter, block, category, code and condition: 0.2 same code, 0.4 same
            category, 0.6 same block, 0.8 same chapter, else 1. Exactly ultrametric, and 1 − D is positive definite.
        wu_palmer: 1 − 2 depth(lca) / (depth(a) + depth(b)) (Wu & Palmer, ACL 1994, with edges counted from the root).
        path: edges between the two conditions (Rada et al., 1989) over the 16 of the longest possible path.
        prefix: 1 − shared leading characters / (characters of the shorter code + 1), the condition being one character
            more: what a comparison of code strings gives.

    Args:
        conditions: C conditions.
        geometry: which notion of nearness.
        measure: how the tree is measured; used by ``icd`` and by the icd part of ``blend``.
        labels: ``[N, C]`` labels of the training split, > 0 for positives; for ``colisting`` only.
        weights: geometry → weight ≥ 0 of a ``blend``; they are scaled to sum to 1.

    Returns:
        ``[C, C]`` float64, symmetric, in [0, 1], 0 on the diagonal and nowhere else.

    Raises:
        UserError: labels, weights or coarse groups are needed and missing, or wrong.
        ValueError: the geometry or measure does not exist.

    Examples:
        >>> from siglip_med.conditions import load_conditions
        >>> conditions = load_conditions(["Eczema", "Psoriasis", "Melanoma"])
        >>> conditions.codes
        ('L30.9', 'L40.9', 'C43.9')
        >>> dissimilarity(conditions)
        array([[0. , 0.8, 1. ],
               [0.8, 0. , 1. ],
               [1. , 1. , 0. ]])
    """
    if geometry not in GEOMETRIES or measure not in MEASURES:
        raise ValueError(f"geometry={geometry!r}, measure={measure!r}: choose from {GEOMETRIES} and {MEASURES}")
    if weights is not None and geometry != "blend":
        raise UserError(f"conditions.weights: only geometry=blend has weights, not {geometry}; drop them")
    if geometry == "blend":
        shares = _shares(BLEND if weights is None else weights)
        parts = [share * dissimilarity(conditions, part, measure, labels) for part, share in shares.items()]
        return np.minimum(np.sum(parts, axis=0), 1.0)
    if geometry == "coarse":
        return _coarse(conditions)
    if geometry == "colisting":
        return _colisting(conditions, labels)
    return _ICD[measure](conditions)


def _level(conditions: ConditionSet) -> np.ndarray:
    paths = [(path[0], path[1], path[2], path[-1]) for path in conditions.paths]
    return _off_diagonal((5 - _shared_depth(paths)) / 5)


def _wu_palmer(conditions: ConditionSet) -> np.ndarray:
    shared, depth = _shared_depth(conditions.paths), _depths(conditions)
    return _off_diagonal(1 - 2 * shared / (depth[:, None] + depth[None, :]))


def _path(conditions: ConditionSet) -> np.ndarray:
    shared, depth = _shared_depth(conditions.paths), _depths(conditions)
    return _off_diagonal((depth[:, None] + depth[None, :] - 2 * shared) / (2 * DEEPEST))


def _prefix(conditions: ConditionSet) -> np.ndarray:
    characters = [code.replace(".", "") for code in conditions.codes]
    length = np.array([len(code) for code in characters])
    return _off_diagonal(1 - _shared_depth(characters) / (np.minimum.outer(length, length) + 1))


_ICD = {"level": _level, "wu_palmer": _wu_palmer, "path": _path, "prefix": _prefix}


def _coarse(conditions: ConditionSet) -> np.ndarray:
    for condition in conditions:
        if not condition.group:
            raise UserError(
                f"condition {condition.name!r} has no coarse group; add a column group to the CSV of codes "
                "(conditions.codes=…), or choose conditions.geometry=icd"
            )
    groups = np.array(conditions.groups)
    return _off_diagonal(np.where(groups[:, None] == groups[None, :], SAME_GROUP, 1.0))


def _colisting(conditions: ConditionSet, labels: np.ndarray | None) -> np.ndarray:
    if labels is None:
        raise UserError("geometry=colisting needs the labels of the training split; choose conditions.geometry=icd")
    if labels.ndim != 2 or labels.shape[1] != len(conditions):
        raise UserError(
            f"geometry=colisting: labels of shape {labels.shape} don't have a column for each of the "
            f"{len(conditions)} conditions"
        )
    positive = (labels > 0).astype(np.float64)
    both = positive.T @ positive
    count = np.diagonal(both)
    either = count[:, None] + count[None, :] - both
    jaccard = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    return _off_diagonal(np.maximum(1 - jaccard, SAME_CODE))


def _shares(weights: Mapping[Geometry, float]) -> dict[Geometry, float]:
    """Blend weights scaled to sum to 1; parts without weight are left out."""
    for part, weight in weights.items():
        if part not in GEOMETRIES or part == "blend" or not 0 <= weight < float("inf"):
            raise UserError(f"conditions.weights: {part}={weight}; give icd, coarse or colisting a weight of 0 or more")
    total = sum(weights.values())
    if total <= 0:
        raise UserError("conditions.weights: they sum to 0; give at least one of icd, coarse, colisting a weight")
    return {part: weight / total for part, weight in weights.items() if weight > 0}


def _depths(conditions: ConditionSet) -> np.ndarray:
    """Edges from the root to each condition, which is one below its code."""
    return np.array([len(path) + 1 for path in conditions.paths])


def _shared_depth(paths: Sequence[Sequence[str]]) -> np.ndarray:
    """``[C, C]`` number of leading elements that two paths share."""
    shared = np.zeros((len(paths), len(paths)), dtype=np.int64)
    for depth in range(1, max(map(len, paths)) + 1):
        prefixes = [tuple(path[:depth]) if len(path) >= depth else None for path in paths]
        number = {prefix: index for index, prefix in enumerate(dict.fromkeys(prefixes))}
        ids = np.array([number[prefix] for prefix in prefixes])
        long_enough = np.array([prefix is not None for prefix in prefixes])
        shared += (ids[:, None] == ids[None, :]) & long_enough[:, None]
    return shared


def _off_diagonal(matrix: np.ndarray) -> np.ndarray:
    """The matrix as float64 with a zero diagonal."""
    matrix = matrix.astype(np.float64)
    np.fill_diagonal(matrix, 0.0)
    return matrix
