"""How a table writes its conditions: which cells name some, what separates them, which names mean the same."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from rapidfuzz import fuzz

from siglip_med.conditions.curated import fold, lookup
from siglip_med.conditions.suggest import suggest_names
from siglip_med.data.values import is_unknown

SEPARATORS = ("|", ";", ",", "/", "+", "&")
_ALIKE = 80
"""Percent of the letters that a misspelled name has in common with the right one."""


def same_names(names: Sequence[str]) -> dict[str, str]:
    """Names that mean what another means, by the curated tables or all but a letter or two -> the most frequent."""
    counts = Counter(name for name in names if not is_unknown(name))
    known = {condition.name for condition in lookup().values()}
    meant: dict[str, list[str]] = defaultdict(list)
    for name, _ in counts.most_common():
        near = name if fold(name) in lookup() else next(iter(suggest_names(name, known, limit=1)), "")
        if near and fuzz.ratio(fold(name), fold(near)) >= _ALIKE:
            condition = lookup()[fold(near)]
            meant[condition.description or condition.phrase].append(name)
    found: dict[str, str] = {}
    for same in meant.values():
        right = next((name for name in same if fold(name) in lookup()), None)
        right = right or suggest_names(same[0], known, limit=1)[0]
        found |= {name: right for name in same if name != right}
    return found


def share_known(values: Sequence[str]) -> float:
    """Share of cells that are conditions of the curated tables, or hold one beside a separator."""
    filled = [value for value in values if not is_unknown(value)]
    pattern = "[" + re.escape("".join(SEPARATORS)) + "]"
    named = sum(any(fold(part) in lookup() for part in (value, *re.split(pattern, value))) for value in filled)
    return named / len(filled) if filled else 0.0


def separator_of(values: Sequence[str]) -> str:
    """What stands between the conditions of a cell: its parts are conditions, and the whole is none."""
    alone = {fold(value) for value in values if not any(separator in value for separator in SEPARATORS)}
    votes: Counter[str] = Counter()
    for value in values:
        for separator in SEPARATORS:
            parts = [fold(part) for part in value.split(separator) if part.strip()]
            if len(parts) > 1 and fold(value) not in lookup():
                votes[separator] += 1 if all(part in alone or part in lookup() for part in parts) else -1
    best = max(votes, key=lambda separator: votes[separator], default="")
    return best if votes[best] > 0 else ""
