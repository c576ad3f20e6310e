"""One vocabulary for several data sets: which labels are conditions, and what the others mean among these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from siglip_med.conditions.codes import CodeBook, in_icd, read_code_book
from siglip_med.conditions.condition import Condition, ConditionSet
from siglip_med.conditions.curated import fold
from siglip_med.conditions.matching import Kind, code_of, match_label, read_codes, stands_for
from siglip_med.core.errors import UserError

Chosen = Literal["union", "intersection"] | list[str]


@dataclass(frozen=True)
class Meaning:
    """What one data set's label means among the conditions of several.

    Attributes:
        kind: how it was matched, as in `match_labels`.
        condition: the condition that it says; "" where it says no single one.
        open_among: conditions that it leaves open: all that it may mean where it says no single one; else those above
            or below its condition that this data set never names, so that its images may show them too.
    """

    kind: Kind
    condition: str = ""
    open_among: tuple[str, ...] = ()


@dataclass(frozen=True)
class Harmony:
    """The C conditions of several data sets, and what each label of each set means among them."""

    conditions: tuple[str, ...]
    meanings: Mapping[str, Mapping[str, Meaning]]


def harmonize(
    vocabularies: Mapping[str, Sequence[str]], chosen: Chosen = "union", codes: str | Path | None = None
) -> Harmony:
    """Brings the labels of several data sets to one list of conditions by name and ICD-10-CM code.

    A label whose code is a category, a block or a chapter stands above conditions and is none itself; every other
    label is a condition, under the name that the first set gives it.

    Args:
        vocabularies: labels of each data set by the set's name.
        chosen: ``union`` of the conditions of all sets, ``intersection``: those that every set names, or a list.
        codes: a CSV with ``condition`` and ``code`` of any level, as in `match_labels`.

    Raises:
        UserError: the file of codes is wrong, or no condition is left.

    Examples:
        >>> found = harmonize({"a": ["Psoriasis", "Acne"], "b": ["acne", "L40"]}, "union")
        >>> found.conditions, found.meanings["b"]["L40"]
        (('Psoriasis', 'Acne'), Meaning(kind='coarser', condition='', open_among=('Psoriasis',)))
    """
    book, given = read_code_book(), {} if codes is None else read_codes(Path(codes))
    keys = {label: code_of(label, given) for labels in vocabularies.values() for label in labels}
    listed = chosen if isinstance(chosen, list) else _union(vocabularies, keys, book)
    nodes = {name: keys.get(name) or code_of(name, given) for name in listed}
    conditions = ConditionSet(tuple(in_icd(name, book.codes.get(nodes[name])) for name in listed))
    matched = {
        source: {label: match_label(label, keys[label], conditions, book) for label in labels}
        for source, labels in vocabularies.items()
    }
    named = {
        source: {name for match in of.values() if match.kind.startswith("same") for name in match.conditions}
        for source, of in matched.items()
    }
    if chosen == "intersection":
        common = [name for name in conditions.names if all(name in own for own in named.values())]
        return harmonize(vocabularies, _some(common, "no condition is named by every one"), codes)
    meanings: dict[str, dict[str, Meaning]] = {}
    for source, of in matched.items():
        meanings[source] = {}
        for label, match in of.items():
            if match.kind == "coarser" or len(match.conditions) != 1:
                meanings[source][label] = Meaning(match.kind, open_among=match.conditions)
            else:
                own = next(one for one in conditions if one.name == match.conditions[0])
                related = _related(own, conditions, book)
                meanings[source][label] = Meaning(
                    match.kind, own.name, tuple(name for name in related if name not in named[source])
                )
    said = {meaning.condition for of in meanings.values() for meaning in of.values()}
    if absent := [name for name in conditions.names if name not in said]:
        raise UserError(f"data.source.conditions: no label of the mixture's sources means {absent[0]!r}; remove it")
    return Harmony(tuple(_some(conditions.names, "no label is a condition")), meanings)


def _some(names: Sequence[str], fault: str) -> list[str]:
    if not names:
        raise UserError(f"data.source.conditions: {fault} of the mixture's sources; give aliases, codes or a list")
    return list(names)


def _union(vocabularies: Mapping[str, Sequence[str]], keys: Mapping[str, str], book: CodeBook) -> list[str]:
    """Names of the conditions: labels of one name are one, and labels of one code where they are of different sets."""
    found: dict[str, tuple[str, str, str]] = {}
    for source, labels in vocabularies.items():
        for label in labels:
            key = keys[label]
            same = any(key and key == code and source != of for _, code, of in found.values())
            if fold(label) not in found and not same and not _is_above(key, book):
                found[fold(label)] = (label, key, source)
    return [label for label, _, _ in found.values()]


def _is_above(key: str, book: CodeBook) -> bool:
    return bool(key) and (key not in book.codes or not book.codes[key].leaf)


def _related(own: Condition, conditions: ConditionSet, book: CodeBook) -> list[str]:
    """The other conditions above or below one in the tree."""
    mine = stands_for(own.path, book)
    found = []
    for other in conditions:
        theirs = stands_for(other.path, book)
        if other.name != own.name and (other.path[: len(mine)] == mine or own.path[: len(theirs)] == theirs):
            found.append(other.name)
    return found
