"""A condition with its code and words, and the ordered set of them that a data set has."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        name: the name that the data uses, e.g. ``"SCC/SCCIS"`` or ``"bkl"``.
        code: a leaf of ICD-10-CM, e.g. ``"L30.9"``.
        title: the official title of the code.
        chapter: e.g. ``"XII - Diseases of the skin and subcutaneous tissue (L00-L99)"``.
        block: e.g. ``"L20-L30 - Dermatitis and eczema"``.
        path: keys from the chapter down to the code, e.g. ``("12", "L20-L30", "L30", "L30.9")``.
        group: one of the coarse dermatological groups, or ``""`` where none is known.
        phrase: how a sentence names the condition, e.g. ``"benign keratosis-like lesion"``.
        description: what it looks like, or ``""``.
        synonyms: other names.
    """

    name: str
    code: str
    title: str
    chapter: str
    block: str
    path: tuple[str, ...]
    group: str
    phrase: str
    description: str
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConditionSet:
    """The C conditions of a data set, in the order of its label columns."""

    conditions: tuple[Condition, ...]
    notes: tuple[str, ...] = ()
    """What had to be found out about the file of codes."""

    def __len__(self) -> int:
        return len(self.conditions)

    def __iter__(self) -> Iterator[Condition]:
        return iter(self.conditions)

    @property
    def names(self) -> tuple[str, ...]:
        """The C names as the data writes them."""
        return tuple(condition.name for condition in self)

    @property
    def codes(self) -> tuple[str, ...]:
        """The C ICD-10-CM codes; two conditions may share one."""
        return tuple(condition.code for condition in self)

    @property
    def groups(self) -> tuple[str, ...]:
        """The C coarse groups; ``""`` where a user's map gives none."""
        return tuple(condition.group for condition in self)

    @property
    def chapters(self) -> tuple[str, ...]:
        """The C chapters of the codes."""
        return tuple(condition.chapter for condition in self)

    @property
    def blocks(self) -> tuple[str, ...]:
        """The C blocks of the codes."""
        return tuple(condition.block for condition in self)

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """The C paths from chapter to code."""
        return tuple(condition.path for condition in self)
