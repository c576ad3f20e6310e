"""Joins groups of images that look alike, without chaining: single linkage, cut at weak links where it strays."""

from dataclasses import dataclass, field, replace

import numpy as np

from siglip_med.core.errors import UserError
from siglip_med.data.look_alikes import BLOCK, Pairs, label_agreement, look_alike_pairs, many_pairs, strongest, unit
from siglip_med.data.table import ImageTable

LARGEST = 50
"""Images above which a joined group is cut at its weakest link, unless each of it looks like every other."""
HOW_ELSE = (
    "take features=cached with a tower that is frozen whole, or write a group column with siglip-med-check "
    "look_alikes=true and name it as data.source.group_column"
)
"""What to do where look-alikes cannot be joined."""
_ROUNDING = 1e-5


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

    A joined group in which some look unlike others is a chain. It is cut at its weakest link where no condition is
    listed by all its images, or where it has more than `LARGEST`; then its parts are judged anew.

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
        return _all_alike(
            features[by_place[bounds[start] : bounds[stop]]], bounds[start:stop] - bounds[start], threshold
        )

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
    """Whether each group (its first row is in ``starts``) looks like every other, by their most alike images."""
    ends = np.append(starts[1:], len(features))
    low, step = 0, 1  # the first group alone: a chain is mostly seen from its end
    while low < len(starts):
        high = max(int(np.searchsorted(ends, ends[low] + step, side="right")), low + 1)
        block = features[starts[low] : ends[high - 1]] @ features.T
        best = np.maximum.reduceat(np.maximum.reduceat(block, starts, axis=1), starts[low:high] - starts[low], axis=0)
        if (best < threshold - _ROUNDING).any():
            return False
        low, step = high, BLOCK
    return True


def as_one_case(table: ImageTable, features: np.ndarray, threshold: float | None) -> ImageTable:
    """The table with look-alikes in one case, and a sentence on it; the rest is as in `join_look_alikes`.

    Args:
        table: its cases are never split.
        features: ``[N, F]`` of a frozen tower.
        threshold: cosine; None for what the labels propose.

    Raises:
        UserError: the labels propose none, or the features of an image have no direction.
    """
    values, cases = unit(features), table.cases
    if threshold is None:
        threshold = label_agreement(many_pairs(values), cases, table.labels).proposed()
    if threshold is None:
        raise UserError(
            f"{table.source}: at no cosine do labels of different cases agree enough to propose from where images look "
            "alike; look with siglip-med-check look_alikes=true, and give data.look_alikes_threshold, or "
            "data.look_alikes=report"
        )
    pairs = look_alike_pairs(values, threshold)
    joined = join_look_alikes(cases, pairs, values, table.labels, threshold)
    frame = table.frame.assign(case=joined.groups.astype(object))
    return replace(table, frame=frame).with_notes(joined.sentence(pairs, threshold))
