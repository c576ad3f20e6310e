"""Finds images that look alike, by cosines of features: the same lesion photographed twice is a leak between splits.

Others did so on dermatology: Abhishek et al. 2024 (arXiv 2401.14497); Groeger et al. 2023 (SelfClean, 2305.17048).
"""

import logging
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from siglip_med.core.errors import UserError

logger = logging.getLogger(__name__)

ANNOUNCED = 50_000
"""Images above which the time of the exact search is announced: it grows with the square of the images."""
SURE = 0.9
"""Agreement of labels above chance from which pairs are taken for look-alikes; see docs/data.md."""
BLOCK = 512
"""Images whose cosines to all others are held at once."""
_MOST_PAIRS = 8_000_000
_WIDTH, _FEWEST, _AN_IMAGE, _SAMPLE = 0.05, 20, 10, 1000
_RIDGE, _ROUNDING, _AT_THE_MEAN = 0.1, 1e-4, 0.01


@dataclass(frozen=True)
class Pairs:
    """Images that look alike.

    Attributes:
        rows: ``[K, 2]`` int64, the smaller first: every pair, or, of too many, those that connect the same images.
        cosines: ``[K]`` float32.
        found: all pairs, those included that were left out because others connect their images.
    """

    rows: np.ndarray
    cosines: np.ndarray
    found: int


def unit(features: np.ndarray) -> np.ndarray:
    """``[N, F]`` float32 features of length one; a UserError where an image's are zero or not finite."""
    values = np.asarray(features, dtype=np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if len(bad):
        raise UserError(
            f"look-alikes: the features of {len(bad):,} of {len(values):,} images are zero or not finite, the first of "
            f"image {bad[0] + 1}; take another base, or set data.look_alikes=off"
        )
    return np.asarray(values / lengths)


def whitened(features: np.ndarray) -> np.ndarray:
    """``[N, F]`` features whose cosines tell one lesion from others of its kind: centered, whitened, of length one.

    What all images of a set share (skin, a lens) fills most of a plain cosine. Each principal direction is divided by
    its standard deviation plus a tenth of the largest. An image at the mean gets a direction of its own (an added
    column), so that copies are alike whatever they show. A UserError as in `unit`.
    """
    values = unit(features)
    values = values - values.mean(axis=0)
    variances, directions = np.linalg.eigh(values.T @ values / len(values))
    spread = np.sqrt(variances.clip(0))
    turned = values @ directions / (spread + max(_RIDGE * float(spread[-1]), _ROUNDING))
    return unit(np.concatenate([turned, np.full((len(values), 1), _AT_THE_MEAN)], axis=1))


def look_alike_pairs(features: np.ndarray, threshold: float, most: int = _MOST_PAIRS) -> Pairs:
    """All pairs of a cosine of at least ``threshold``, exactly, in blocks.

    Args:
        features: ``[N, F]`` float32 of length one.
        threshold: cosine.
        most: pairs that are held; of more, the strongest that connect the same images are kept (a maximum spanning
            forest), so that a heap of copies takes no more room than its images do.
    """
    count = len(features)
    if count > ANNOUNCED:
        times = (count / ANNOUNCED) ** 2
        logger.info("look-alikes: %s images are searched exactly: %.1f times the work of 50,000", f"{count:,}", times)
    rows, cosines, found = np.zeros((0, 2), np.int64), np.zeros(0, np.float32), 0
    fresh: list[tuple[np.ndarray, np.ndarray]] = [(rows, cosines)]
    for start in range(0, count, BLOCK):
        block = features[start : start + BLOCK] @ features[start:].T
        i, j = np.nonzero(block >= threshold)
        i, j = i[j > i], j[j > i]
        fresh.append((np.stack([i, j], axis=1) + start, block[i, j]))
        found += len(i)
        if sum(len(values) for _, values in fresh) > most:
            fresh = [strongest(*_joined(fresh), count)]
    return Pairs(*_joined(fresh), found)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([values for _, values in parts])


def strongest(pairs: np.ndarray, cosines: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of pairs ``[K, 2]`` (each once) of N nodes that make a maximum spanning forest, the strongest first."""
    # a weight of 0 would be no edge
    graph = coo_array((3.0 - cosines.astype(np.float64), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    order = np.argsort(tree.data, kind="stable")
    ends = np.stack([tree.row, tree.col], axis=1).astype(np.int64)[order]
    return ends, (3.0 - tree.data[order]).astype(np.float32)


def nearest(queries: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``queries`` ``[N, F]`` the most alike of ``among`` ``[M, F]``, all of length one: cosine and row."""
    cosines, rows = np.zeros(len(queries), np.float32), np.zeros(len(queries), np.int64)
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK] @ among.T
        best = block.argmax(axis=1)
        rows[start : start + BLOCK] = best
        cosines[start : start + BLOCK] = block[np.arange(len(best)), best]
    return cosines, rows


@dataclass(frozen=True)
class Agreement:
    """How often images share a condition, by how alike they look; the most alike first.

    Attributes:
        low: ``[B]`` smallest cosine of each bin, which is .05 wide.
        pairs: ``[B]`` int64.
        agree: ``[B]`` share of them that list a condition in common.
        chance: the same share of two images of different cases drawn at random.
    """

    low: np.ndarray
    pairs: np.ndarray
    agree: np.ndarray
    chance: float

    @property
    def above_chance(self) -> np.ndarray:
        """``[B]`` (agreement - chance) / (1 - chance); NaN where chance is 1."""
        return (self.agree - self.chance) / (1 - self.chance) if self.chance < 1 else np.full(len(self.low), np.nan)

    def proposed(self) -> float | None:
        """The lowest cosine down to which, bin by bin, labels agree at least `SURE` above chance; None where none do.

        A bin of fewer than 20 pairs is judged together with those below it.
        """
        found, pairs, agree = None, 0.0, 0.0
        for low, count, share in zip(self.low, self.pairs, self.above_chance, strict=True):
            pairs, agree = pairs + count, agree + (count * share if count else 0.0)
            if pairs < _FEWEST:
                continue
            if not agree / pairs >= SURE:
                break
            found, pairs, agree = float(low), 0.0, 0.0
        return found


def many_pairs(features: np.ndarray) -> Pairs:
    """The most alike pairs of ``[N, F]`` features of length one, about ten an image."""
    count = len(features)
    some = features[:: max(1, count // _SAMPLE)]
    cosines = np.sort((some @ features.T).ravel())
    place = len(cosines) - len(some) * (1 + 2 * _AN_IMAGE)  # each is among all, and a pair is seen from both its images
    return look_alike_pairs(features, float(cosines[max(place, 0)]))


def label_agreement(pairs: Pairs, groups: np.ndarray, labels: np.ndarray) -> Agreement:
    """Of pairs of different groups (``[N]`` str), how many share a condition (``[N, C]`` labels), by cosine."""
    listed = (labels > 0).astype(np.float32)
    other = groups[pairs.rows[:, 0]] != groups[pairs.rows[:, 1]]
    rows, cosines = pairs.rows[other], pairs.cosines[other].astype(np.float64)
    same = (listed[rows[:, 0]] * listed[rows[:, 1]]).any(axis=1)
    bins = np.minimum(np.floor((1 - cosines + 1e-9) / _WIDTH).clip(0), 1 / _WIDTH - 1).astype(np.int64)
    count = int(bins.max()) + 1 if len(bins) else 0
    total = np.bincount(bins, minlength=count)
    agree = np.bincount(bins, weights=same, minlength=count) / np.maximum(total, 1)
    low = np.round(1 - _WIDTH * np.arange(1, count + 1), 2)
    return Agreement(low, total, agree, _chance(listed, groups))


def proposed_threshold(features: np.ndarray, groups: np.ndarray, labels: np.ndarray) -> float | None:
    """The cosine that the labels propose for ``[N, F]`` features of length one; arguments as in `label_agreement`."""
    return label_agreement(many_pairs(features), groups, labels).proposed()


def _chance(listed: np.ndarray, groups: np.ndarray) -> float:
    """Share of pairs of images of different groups that list a condition in common, of at most a thousand images."""
    some = np.linspace(0, len(listed) - 1, min(len(listed), _SAMPLE)).astype(np.int64)
    same = listed[some] @ listed[some].T > 0
    other = groups[some][:, None] != groups[some][None, :]
    return float(same[other].mean()) if other.any() else 1.0
