"""Joins groups of images that look alike, without chaining: single linkage, cut at weak links where it strays."""

from dataclasses import replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from siglip_med.core.errors import UserError
from siglip_med.data.look_alikes import BLOCK, Pairs, look_alike_pairs, proposed_threshold, strongest, whitened
from siglip_med.data.table import ImageTable

LARGEST = 50
"""Images above which a chain is cut at its weakest link."""
HOW_ELSE = (
    "take features=cached with a tower that is frozen whole, or write a group column with siglip-med-check "
    "look_alikes=true and name it as data.source.group_column"
)
"""What to do where look-alikes cannot be joined."""
_ROUNDING = 1e-5


def join_look_alikes(
    groups: np.ndarray,
    pairs: Pairs,
    features: np.ndarray,
    labels: np.ndarray,
    threshold: float,
    apart: np.ndarray | None = None,
) -> tuple[np.ndarray, str]:
    """Joins groups of images (given cases, hash groups) that pairs connect; no group is ever split.

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
        ``[N]`` str, the alphabetically first name of the groups that were joined; and what was done, with counts.
    """
    names, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    ends = np.sort(group[pairs.rows], axis=1)
    order = np.argsort(-pairs.cosines, kind="stable")
    order = order[ends[order, 0] != ends[order, 1]]
    _, once = np.unique(ends[order] @ np.array([len(names), 1]), return_index=True)
    chosen = order[once]
    links, _ = strongest(ends[chosen], pairs.cosines[chosen], len(names))
    parted = group[np.zeros((0, 2), np.int64) if apart is None else apart]
    by_group = np.argsort(group, kind="stable")
    first = np.searchsorted(group[by_group], np.arange(len(names) + 1))
    joined, cuts, cut = np.arange(len(names)), 0, set[int]()

    def whole(nodes: np.ndarray) -> bool:
        rows = np.concatenate([by_group[first[node] : first[node + 1]] for node in nodes])
        if np.isin(parted, nodes).all(axis=1).any():
            return False
        if len(nodes) <= 2 or (len(rows) <= LARGEST and (labels[rows] > 0).all(axis=0).any()):
            return True
        return _all_alike(features[rows], np.searchsorted(group[rows], nodes), threshold)

    stack = [(nodes, inside, nodes[0]) for nodes, inside in _components(np.arange(len(names)), links) if len(inside)]
    while stack:
        nodes, inside, chain = stack.pop()
        if len(inside) == 0 or whole(nodes):
            joined[nodes] = nodes[0]
            continue
        cuts += 1
        cut.add(int(chain))
        stack += [(*part, chain) for part in _components(nodes, inside[:-1])]
    said = f"{pairs.found:,} pairs of look-alikes (cosine {threshold:.3f} and more) join {len(names):,} cases to "
    said += f"{len(np.unique(joined)):,}"
    if cuts:
        said += (
            f"; {len(cut):,} chains of several labels or of more than {LARGEST} images were cut at {cuts:,} weakest "
        )
        said += "links, so look-alikes may stand on both sides"
    return names[joined][group], said


def _components(nodes: np.ndarray, links: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The connected parts of ascending nodes: their nodes and their links, in the order given."""
    ends = np.searchsorted(nodes, links)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(nodes), len(nodes)))
    count, part = connected_components(graph, directed=False)
    by_node, by_link = np.argsort(part, kind="stable"), np.argsort(part[ends[:, 0]], kind="stable")
    places = np.arange(1, count)
    of_nodes = np.split(nodes[by_node], np.searchsorted(part[by_node], places))
    of_links = np.split(links[by_link], np.searchsorted(part[ends[:, 0]][by_link], places))
    return list(zip(of_nodes, of_links, strict=True))


def _all_alike(features: np.ndarray, starts: np.ndarray, threshold: float) -> bool:
    """Whether each group (its first row is in ``starts``) looks like every other, by their most alike images."""
    ends, low, step = np.append(starts[1:], len(features)), 0, 1  # one first: a chain is mostly seen from its end
    while low < len(starts):
        high = max(int(np.searchsorted(ends, ends[low] + step, side="right")), low + 1)
        block = features[starts[low] : ends[high - 1]] @ features.T
        best = np.maximum.reduceat(np.maximum.reduceat(block, starts, axis=1), starts[low:high] - starts[low], axis=0)
        if (best < threshold - _ROUNDING).any():
            return False
        low, step = high, BLOCK
    return True


def as_one_case(table: ImageTable, features: np.ndarray, threshold: float | None) -> ImageTable:
    """The table with look-alikes by ``[N, F]`` features in one case, as in `join_look_alikes`, and a sentence on it.

    Raises:
        UserError: ``threshold`` is None and the labels propose none, or an image's features have no direction.
    """
    values, cases = whitened(features), table.cases
    threshold = threshold or proposed_threshold(values, cases, table.labels)
    if threshold is None:
        raise UserError(
            f"{table.source}: at no cosine do labels of different cases agree enough to propose from where images look "
            "alike; look with siglip-med-check look_alikes=true and give data.look_alikes_threshold, or take "
            "data.look_alikes=report"
        )
    merged, said = join_look_alikes(cases, look_alike_pairs(values, threshold), values, table.labels, threshold)
    return replace(table, frame=table.frame.assign(case=merged.astype(object))).with_notes(said)
