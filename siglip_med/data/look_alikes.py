"""Finds images that look alike, by cosines of features: the same lesion photographed twice is a leak between splits.

Others did so on dermatology: Abhishek et al. 2024 (arXiv 2401.14497), SelfClean (Groeger et al. 2023, arXiv 2305.17048).
"""

import logging
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from siglip_med.core.errors import UserError
from siglip_med.data.near_duplicates import merge_groups

logger = logging.getLogger(__name__)

ANNOUNCED = 50_000
"""Images above which the time of the exact search is announced: it grows with the square of the images."""
LARGEST = 50
"""Images above which a joined group is cut at its weakest link, unless each of it looks like every other."""
_BLOCK = 512
_MOST_PAIRS = 8_000_000
_ROUNDING = 1e-5


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
    for start in range(0, count, _BLOCK):
        block = features[start : start + _BLOCK] @ features[start:].T
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
    """Of pairs ``[K, 2]`` (each once) among ``count`` nodes, those of a maximum spanning forest, the strongest first."""
    # a weight of 0 would be no edge
    graph = coo_array((3.0 - cosines.astype(np.float64), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    order = np.argsort(tree.data, kind="stable")
    ends = np.stack([tree.row, tree.col], axis=1).astype(np.int64)[order]
    return ends, (3.0 - tree.data[order]).astype(np.float32)


def nearest(queries: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most alike of ``among`` ``[M, F]`` for each of ``queries`` ``[N, F]`` (of length one): ``[N]`` cosines, rows."""
    cosines, rows = np.zeros(len(queries), np.float32), np.zeros(len(queries), np.int64)
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK] @ among.T
        best = block.argmax(axis=1)
        rows[start : start + _BLOCK] = best
        cosines[start : start + _BLOCK] = block[np.arange(len(best)), best]
    return cosines, rows


@dataclass(frozen=True)
class Joined:
    """Groups after look-alikes were joined, and what was done.

    Attributes:
        groups: ``[N]`` str.
        cuts: weakest links that were cut, so that nothing chains.
        cut: joined groups that were cut.
        before: number of groups before.
    """

    groups: np.ndarray
    cuts: int
    cut: int
    before: int

    def sentence(self, pairs: Pairs, threshold: float) -> str:
        """What was done, with counts."""
        after = len(np.unique(self.groups))
        said = (
            f"{pairs.found:,} pairs of look-alikes (cosine {threshold:.3f} and more) join {self.before:,} cases to "
            f"{after:,}"
        )
        if self.cuts:
            said += (
                f"; {self.cut:,} chains of several labels or of more than {LARGEST} images were cut at {self.cuts:,} "
                "weakest links, so that look-alikes may stand on both sides"
            )
        return said


@dataclass
class _Tree:
    """Groups as they join, the strongest link first: nodes below ``leaves`` are groups, the others join two each."""

    leaves: int
    children: list[tuple[int, int]] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)

    @classmethod
    def grown(cls, links: np.ndarray, leaves: int) -> "_Tree":
        tree, top = cls(leaves), list(range(leaves))

        def find(node: int) -> int:
            while top[node] != node:
                top[node] = top[top[node]]
                node = top[node]
            return node

        for number, (left, right) in enumerate(links.tolist(), start=leaves):
            pair = find(left), find(right)
            tree.children.append(pair)
            top.append(number)
            top[pair[0]] = top[pair[1]] = number
        tree.roots = [node for node in range(len(top)) if top[node] == node]
        return tree

    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First place and number of leaves of each node, and the leaf at each place: a node's leaves stand together."""
        nodes = self.leaves + len(self.children)
        size, first = np.ones(nodes, np.int64), np.zeros(nodes, np.int64)
        for number, (left, right) in enumerate(self.children, start=self.leaves):
            size[number] = size[left] + size[right]
        first[self.roots] = np.cumsum(size[self.roots]) - size[self.roots]
        for number in range(nodes - 1, self.leaves - 1, -1):
            left, right = self.children[number - self.leaves]
            first[left], first[right] = first[number], first[number] + size[left]
        return first, size, np.argsort(first[: self.leaves])


def join_look_alikes(
    groups: np.ndarray,
    pairs: Pairs,
    features: np.ndarray,
    labels: np.ndarray,
    threshold: float,
    apart: np.ndarray | None = None,
) -> Joined:
    """Joins groups of images (given cases, hash groups) that pairs connect, without chaining; groups are never split.

    A joined group that is connected by links alone, some of its groups looking unlike others, is cut at its weakest link
    where no condition is listed by all its images, or where it has more than `LARGEST`; then its parts are judged anew.

    Args:
        groups: ``[N]`` str.
        pairs: of look-alikes.
        features: ``[N, F]`` float32 of length one.
        labels: ``[N, C]``.
        threshold: cosine from which two groups look alike, by their most alike images.
        apart: ``[K, 2]`` rows that a person told apart: whatever joins them is cut until they are.

    Returns:
        A joined group bears the alphabetically first name of its groups.
    """
    names, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    ends = np.sort(group[pairs.rows], axis=1)
    order = np.argsort(-pairs.cosines, kind="stable")
    order = order[ends[order, 0] != ends[order, 1]]
    _, once = np.unique(ends[order] @ np.array([len(names), 1]), return_index=True)
    chosen = order[once]
    tree = _Tree.grown(strongest(ends[chosen], pairs.cosines[chosen], len(names))[0], len(names))
    first, size, leaf = tree.places()
    place = np.argsort(leaf)  # of each group
    by_place = np.argsort(place[group], kind="stable")  # rows, those of a node together
    bounds = np.searchsorted(place[group][by_place], np.arange(len(names) + 1))
    listed = np.logical_and.reduceat((labels > 0)[by_place], bounds[:-1])  # by place: what all images of a group list
    parted = np.sort(place[group[np.zeros((0, 2), np.int64) if apart is None else apart]], axis=1)

    def whole(node: int) -> bool:
        start, stop = first[node], first[node] + size[node]
        if ((parted[:, 0] >= start) & (parted[:, 1] < stop)).any():
            return False
        images = bounds[stop] - bounds[start]
        if size[node] <= 2 or (images <= LARGEST and listed[start:stop].all(axis=0).any()):
            return True
        return _all_alike(features[by_place[bounds[start] : bounds[stop]]], bounds[start:stop] - bounds[start], threshold)

    joined, cuts, cut = np.arange(len(names)), 0, 0
    for root in tree.roots:
        stack, before = [root], cuts
        while stack:
            node = stack.pop()
            if size[node] == 1 or whole(node):
                members = leaf[first[node] : first[node] + size[node]]
                joined[members] = members.min()
            else:
                cuts += 1
                stack += tree.children[node - tree.leaves]
        cut += cuts > before
    return Joined(names[joined][group], cuts, cut, len(names))


def _all_alike(features: np.ndarray, starts: np.ndarray, threshold: float) -> bool:
    """Whether each of several groups looks like every other, by their most alike images; ``starts``: each one's first."""
    ends = np.append(starts[1:], len(features))
    low, step = 0, 1  # the first group alone: a chain is mostly seen from its end
    while low < len(starts):
        high = max(int(np.searchsorted(ends, ends[low] + step, side="right")), low + 1)
        block = features[starts[low] : ends[high - 1]] @ features.T
        best = np.maximum.reduceat(np.maximum.reduceat(block, starts, axis=1), starts[low:high] - starts[low], axis=0)
        if (best < threshold - _ROUNDING).any():
            return False
        low, step = high, _BLOCK
    return True
