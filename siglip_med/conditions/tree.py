"""The tree of the conditions: their order in it, and its text for a terminal."""

import sys
from itertools import zip_longest

from siglip_med.conditions.condition import Condition, ConditionSet


def tree_order(conditions: ConditionSet) -> list[int]:
    """Positions of the conditions in the order of the tree: chapters by number, codes, names; without a code, last."""
    keys = [(int(c.path[0]) if c.code else sys.maxsize, c.path[1:], c.name) for c in conditions]
    return sorted(range(len(conditions)), key=keys.__getitem__)


def tree_text(conditions: ConditionSet) -> str:
    """The tree of the conditions, one indented line a chapter, block, category and condition."""
    lines: list[str] = []
    above: tuple[str, ...] = ()
    for position in tree_order(conditions):
        condition = conditions.conditions[position]
        headings = (condition.chapter, condition.block, condition.path[2]) if condition.code else ("no code",)
        for depth, (heading, before) in enumerate(zip_longest(headings, above)):
            if heading and heading != before:
                lines.append("  " * depth + heading)
        above = headings
        lines.append("      " + _leaf_text(condition))
    return "\n".join(lines)


def _leaf_text(condition: Condition) -> str:
    title = "" if condition.title.casefold() in ("", condition.name.casefold()) else f" ({condition.title})"
    return f"{condition.code or '–'}  {condition.name}{title}" + (f" [{condition.group}]" if condition.group else "")
