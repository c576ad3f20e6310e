"""Where the answers stand in ICD-10-CM, and how far each is from the first one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siglip_med.conditions import ConditionSet, dissimilarity
from siglip_med.conditions.codes import CATEGORY_DEPTH, in_icd, read_code_book
from siglip_med.core.errors import UserError

_SHARED = ((0.2, "same code"), (0.4, "same category"), (0.6, "same block"), (0.8, "same chapter"))


@dataclass(frozen=True)
class Leaf:
    """An answer in the tree: D to the first answer in [0, 1], and in words the lowest branch that both are below."""

    rank: int
    condition: str
    distance: float
    shared: str


@dataclass(frozen=True)
class Branch:
    """A chapter, block, category or code with what of the answers is below it."""

    level: str
    key: str
    title: str
    branches: tuple["Branch", ...] = ()
    leaves: tuple[Leaf, ...] = ()


@dataclass(frozen=True)
class Icd:
    """The C conditions of a model in ICD-10-CM, and D of the tree, whatever geometry the run learnt from."""

    conditions: ConditionSet
    distance: np.ndarray

    def leaf(self, column: int, rank: int, first: int) -> Leaf:
        """How a condition lies to the first answer; both are columns."""
        name, d = self.conditions.names[column], float(self.distance[first, column])
        if column == first:
            return Leaf(rank, name, 0.0, "first answer")
        shared = next((words for level, words in _SHARED if d <= level + 1e-9), "another chapter")
        return Leaf(rank, name, d, shared)

    def tree(self, columns: Sequence[int]) -> tuple[Branch, ...]:
        """The answers as a tree: chapter, block, category, code; the branch of the better answer comes first."""
        leaves = [(column, self.leaf(column, rank, columns[0])) for rank, column in enumerate(columns, start=1)]
        return self._branches(leaves, 0)

    def _branches(self, leaves: Sequence[tuple[int, Leaf]], depth: int) -> tuple[Branch, ...]:
        groups: dict[str, list[tuple[int, Leaf]]] = {}
        for column, leaf in leaves:
            groups.setdefault(self._step(column, depth)[0], []).append((column, leaf))
        found = []
        for group in groups.values():
            key, title = self._step(group[0][0], depth)
            code = self.conditions.codes[group[0][0]]
            if not code or key == code:  # a category such as L80 can be complete itself
                found.append(Branch("code", key, title, leaves=tuple(leaf for _, leaf in group)))
            else:
                found.append(Branch(_LEVELS[depth], key, title, branches=self._branches(group, depth + 1)))
        return tuple(found)

    def _step(self, column: int, depth: int) -> tuple[str, str]:
        """Key and title of the branch that a condition is below, at a depth."""
        condition = self.conditions.conditions[column]
        if depth == 0:
            return _split(condition.chapter)
        if depth == 1:
            return _split(condition.block)
        if depth == CATEGORY_DEPTH:
            category = condition.path[CATEGORY_DEPTH]
            return category, read_code_book().codes[category].title
        return condition.code, condition.title


_LEVELS = ("chapter", "block", "category")


def _split(heading: str) -> tuple[str, str]:
    key, _, title = heading.partition(" - ")
    return key, title


def place_in_icd(names: Sequence[str], codes: Sequence[str], source: str) -> Icd:
    """Looks up where a model's conditions stand; a UserError for a code that is none of ICD-10-CM."""
    book = read_code_book()
    conditions = []
    for name, text in zip(names, codes, strict=True):
        code = book.find(text)
        if text and (code is None or len(code.path) <= CATEGORY_DEPTH):
            raise UserError(f"{source}: {text!r}, the code of {name!r}, is no code of {book.release}")
        conditions.append(in_icd(name, code))
    found = ConditionSet(tuple(conditions))
    return Icd(found, dissimilarity(found))
