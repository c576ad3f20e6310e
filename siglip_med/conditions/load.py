"""From the names of a data set's label columns to its conditions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from siglip_med.conditions.condition import Condition, ConditionSet
from siglip_med.conditions.curated import fold, lookup
from siglip_med.conditions.suggest import in_words, suggest_codes, suggest_names
from siglip_med.conditions.user_map import read_user_map
from siglip_med.core.csv_reading import read_csv
from siglip_med.core.errors import UserError
from siglip_med.core.shell import mapping


def load_conditions(
    names: Sequence[str], codes: str | Path | None = None, rows: Mapping[str, int] = MappingProxyType({})
) -> ConditionSet:
    """Looks up the code, group and description of each condition.

    Args:
        names: the C names of the data, in the order of its label columns; case and spacing don't matter.
        codes: a CSV with the columns ``condition`` and ``code`` (see `read_user_map`), which then has to hold every
            name; None looks names, phrases and synonyms up in the curated tables.
        rows: the first row of a name in the data's table, for messages.

    Returns:
        the C conditions, each under the name that was given.

    Raises:
        UserError: no names, a name twice, two names of one condition, a name that is nowhere (with the nearest names
            and codes), or a map that is wrong.

    Examples:
        >>> conditions = load_conditions(["mel", "nv", "bcc"])
        >>> [(condition.phrase, condition.code) for condition in conditions]
        [('melanoma', 'C43.9'), ('melanocytic nevus', 'D22.9'), ('basal cell carcinoma', 'C44.91')]
    """
    if not names:
        raise UserError("the data has no conditions; name at least one label column")
    known: Mapping[str, Condition] = lookup() if codes is None else read_user_map(Path(codes))
    found: list[Condition] = []
    unknown: list[tuple[int, str]] = []
    positions: dict[str, int] = {}
    meanings: dict[str, str] = {}
    for position, name in enumerate(names, start=1):
        key = fold(name)
        if key in positions:
            raise UserError(
                f"condition {position}, {name!r}: the same name as condition {positions[key]}; merge the two columns"
            )
        positions[key] = position
        condition = known.get(key)
        if condition is None:
            unknown.append((position, name))
            continue
        meaning = condition.description or condition.phrase
        if meaning in meanings:
            raise UserError(
                f"condition {position}, {name!r}: described just as {meanings[meaning]!r} ({condition.code}); merge "
                "the two columns, or describe each in a CSV with condition, code and description (conditions.codes=…)"
            )
        meanings[meaning] = name
        found.append(replace(condition, name=name))
    if unknown:
        raise UserError(_unknown(unknown, known, codes, rows))
    return ConditionSet(tuple(found), () if codes is None else (*read_csv(Path(codes)).notes, *_without_code(found)))


def _without_code(conditions: Sequence[Condition]) -> tuple[str, ...]:
    """What the tree cannot say of conditions without a code."""
    names = [condition.name for condition in conditions if not condition.code]
    if not names:
        return ()
    some = ", ".join(map(repr, names[:3])) + f" and {len(names) - 3} more" * (len(names) > 3)
    return (
        f"{len(names)} of {len(conditions)} conditions have no ICD-10-CM code and stand at the root of the tree, at "
        f"D = 1 from all others: {some}",
    )


def _unknown(
    unknown: Sequence[tuple[int, str]],
    known: Mapping[str, Condition],
    codes: str | Path | None,
    rows: Mapping[str, int],
) -> str:
    """Message on names that are in neither the map nor the curated tables: all of them, the first in full."""
    where = {name: f"{name!r}{f' (row {rows[name]})' if name in rows else ''}" for _, name in unknown}
    position, name = unknown[0]
    others = f"; the same holds for {len(unknown) - 1} more: {', '.join([*where.values()][1:])}"
    others = others if len(unknown) > 1 else ""
    near = suggest_names(name, (condition.name for condition in known.values()))
    names = f"nearest names: {', '.join(map(repr, near))}; " if near else ""
    found = suggest_codes(name, limit=3)
    suggestions = names + (f"nearest codes: {in_words(found)}; " if found else "")
    if codes is None:
        out = mapping("data.source.aliases", {name: None for _, name in unknown}) or "data.source.aliases=@names.csv"
        return (
            f"condition {position}, {where[name]}: not in the curated tables; {suggestions}rename it, leave it out "
            f"({out}), or give all conditions in a CSV with the columns condition and code (conditions.codes=…){others}"
        )
    return (
        f"{codes}: condition {position} of the data, {where[name]}, has no row; {suggestions}add a row for it{others}"
    )
