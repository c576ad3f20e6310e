"""Divides groups of images into parts with the same share of every condition."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from iterstrat.ml_stratifiers import IterativeStratification
from scipy.sparse import csr_array

from siglip_med.core.errors import UserError
from siglip_med.data.near_duplicates import merge_groups
from siglip_med.data.table import ImageTable

_ONE_BY_ONE = 8000
"""Groups up to which each improvement looks at all of them anew."""


def leak_groups(table: ImageTable) -> np.ndarray:
    """``[N]`` str: the groups that no split may separate: cases, joined where they list the same image file.

    (Eleven photographs of the SCIN recipe are listed by two or three cases each.)
    """
    first: dict[str, int] = {}
    pairs = [(first.setdefault(image, row), row) for row, image in enumerate(table.frame["image"])]
    return merge_groups(table.cases, np.array(pairs))


def straddling_groups(groups: np.ndarray, parts: np.ndarray) -> list[str]:
    """Names of the groups with images in more than one part, sorted."""
    places = Counter(group for group, _ in set(zip(groups.tolist(), parts.tolist(), strict=True)))
    return sorted(group for group, count in places.items() if count > 1)


def stratify(table: ImageTable, fractions: Sequence[float], seed: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Divides the groups of a table into parts with the same share of every condition.

    Args:
        table: what to divide.
        fractions: share of the images of each part; a condition with few groups is given to the first parts first.
        seed: of the order in which groups are looked at.
        rows: rows to divide; all where None.

    Returns:
        Part of each of these rows, as an index into ``fractions``.

    Raises:
        UserError: there are fewer groups than parts.
    """
    rows = np.arange(len(table)) if rows is None else rows
    names, group = np.unique(leak_groups(table)[rows], return_inverse=True)
    if len(names) < len(fractions):
        raise UserError(f"{table.source}: {len(names)} cases do not fill {len(fractions)} splits; give more cases")
    listed = (table.labels[rows] > 0).astype(np.float64)
    primary = np.eye(len(table.conditions))[table.frame["primary"].to_numpy()[rows]]
    images = np.ones((len(rows), 1))
    counts = np.zeros((len(names), 2 * listed.shape[1] + 1))
    np.add.at(counts, group, np.concatenate([images, listed, primary], axis=1))
    rng = np.random.RandomState(seed)
    shuffled = rng.permutation(len(names))
    has = counts[:, 1 : listed.shape[1] + 1] > 0
    part = np.empty(len(names), dtype=np.int64)
    part[shuffled] = _assign(counts[shuffled], has[shuffled], np.asarray(fractions, dtype=np.float64), rng)
    return part[group]


def _assign(counts: np.ndarray, has: np.ndarray, shares: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Part of each group, from counts ``[G, F]`` (images, then images per label) and labels ``[G, C]`` bool."""
    part = _place_rare_first(counts[:, 0], has, len(shares))
    free = np.flatnonzero(part < 0)
    if len(free):
        # what is placed already counts against each part's share
        placed = np.bincount(part[part >= 0], minlength=len(shares))
        wanted = np.maximum(shares * len(part) - placed, 1e-9)
        part[free] = IterativeStratification(has[free], wanted / wanted.sum(), rng)
    return _improve(part, counts, has, shares)


def _place_rare_first(images: np.ndarray, has: np.ndarray, parts: int) -> np.ndarray:
    """Gives each condition a group in each part, the rarest condition first; -1: not placed.

    The first part (train) gets the largest of its groups, the others the smallest.
    """
    part = np.full(len(has), -1)
    groups = has.sum(axis=0)
    for condition in np.argsort(groups, kind="stable"):
        members = np.flatnonzero(has[:, condition])
        for target in range(parts):
            if (part[members] == target).any():
                continue
            free = members[part[members] < 0]
            if len(free):
                part[free[np.argmax(images[free]) if target == 0 else np.argmin(images[free])]] = target
    return part


def _improve(part: np.ndarray, counts: np.ndarray, has: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Moves one group at a time to where it lowers the chi-square distance of the counts to their shares most.

    First each condition that is missing from the first part (train) gets a group there.
    """
    part = part.copy()
    for condition in np.flatnonzero(has.any(axis=0)):
        members = np.flatnonzero(has[:, condition])
        if not (part[members] == 0).any():
            part[members[np.argmin(counts[members, 0])]] = 0
    target = shares[:, None] * counts.sum(axis=0)
    weight = 1.0 / np.maximum(target, 0.5)
    weight[:, 0] *= counts.shape[1]  # the size of a part counts as much as its labels together
    everyone = np.arange(len(part))
    have = np.zeros_like(target)
    groups = np.zeros((len(shares), has.shape[1]), dtype=np.int64)
    np.add.at(have, part, counts)
    np.add.at(groups, part, has)
    # a group has few conditions of many
    sparse, listed = csr_array(counts), csr_array(has.astype(np.float64))
    alone = csr_array(counts**2) @ weight.T
    # in big tables the better moves are tried too before all are worked out again, in small ones the best alone
    tried = max(1, int((len(part) / _ONE_BY_ONE) ** 2))

    def lowers(group: int, to: int) -> bool:
        """Whether moving a group lowers the distance now, and takes no condition's last group away."""
        row, here = counts[group], part[group]
        if (has[group] & (groups[here] == 1)).any():
            return False
        leave = weight[here] * row * (row - 2 * (have[here] - target[here]))
        enter = weight[to] * row * (row + 2 * (have[to] - target[to]))
        return bool(leave.sum() + enter.sum() < -1e-9)

    for _ in range(4 * len(part)):
        # change of sum w (have - target)^2 when a group leaves its part, and when it enters one
        off = 2 * (sparse @ ((have - target) * weight).T)
        change = (alone - off)[everyone, part][:, None] + (alone + off)
        last = (listed @ (groups == 1).T.astype(np.float64))[everyone, part] > 0
        change[last] = np.inf
        change[everyone, part] = np.inf
        flat = change.min(axis=1)
        best = np.argpartition(flat, tried - 1)[:tried] if tried > 1 else np.array([np.argmin(flat)])
        moved = False
        for group in best[np.argsort(flat[best], kind="stable")].tolist():
            to = int(np.argmin(change[group]))
            if not lowers(group, to):
                continue
            for table, row in ((have, counts[group]), (groups, has[group])):
                table[part[group]] -= row
                table[to] += row
            part[group], moved = to, True
        if not moved:
            break
    return part
