"""Which columns of a table hold the conditions, whatever shape they come in."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from siglip_med.core.errors import UserError

_LISTED = 12


def _as_name(value: object) -> object:
    """YAML reads ``0`` and ``.inf`` as numbers and ``no`` as false; a column may be called so."""
    return str(value) if isinstance(value, bool | int | float) else value


Column = Annotated[str, BeforeValidator(_as_name)]
"""Name of a column, also where YAML takes it for a number."""


def match_columns(names: Iterable[str], there: Sequence[str], path: Path) -> list[str]:
    """Columns by their names, in any letter case that leaves one alone; a UserError names all that are missing."""
    plain: dict[str, list[str]] = {}
    for column in there:
        plain.setdefault(column.casefold(), []).append(column)
    found: list[str] = []
    missing: list[str] = []
    for name in map(str, names):
        fits = [name] if name in there else plain.get(name.casefold(), [])
        (found if len(fits) == 1 else missing).append(fits[0] if len(fits) == 1 else name)
    if missing:
        have = ", ".join(there[:_LISTED]) + (f" and {len(there) - _LISTED} more" if len(there) > _LISTED else "")
        raise UserError(f"{path}: no column {', '.join(map(repr, missing))}; there are {have}")
    return found


def condition_columns(
    there: Sequence[str],
    path: Path,
    listed: Sequence[str] | None,
    prefix: str | None,
    all_but: Sequence[str] | None,
) -> dict[str, str]:
    """Column → condition, for tables with one column per condition; exactly one of the three is given.

    Args:
        there: the table's columns.
        path: the table, for messages.
        listed: the columns by name.
        prefix: of the columns, which the conditions go without.
        all_but: the columns that are no conditions.

    Raises:
        UserError: a column is not there, or none is left.
    """
    if listed is not None:
        names = match_columns(listed, there, path)
    elif prefix is not None:
        names = [column for column in there if column.startswith(prefix)]
    else:
        others = match_columns(all_but or (), there, path)
        names = [column for column in there if column not in others]
    columns = {column: column.removeprefix(prefix or "").strip() for column in names}
    columns = {column: name for column, name in columns.items() if name}
    if not columns:
        raise UserError(f"{path}: no column is a condition; there are {', '.join(there[:_LISTED])}")
    return columns
