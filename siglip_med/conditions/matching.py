"""Matches the labels of another data set to a model's conditions by ICD-10-CM code; a person may mend the table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from siglip_med.conditions.codes import CodeBook, read_code_book
from siglip_med.conditions.condition import Condition, ConditionSet
from siglip_med.conditions.curated import fold, lookup
from siglip_med.conditions.suggest import suggest_names
from siglip_med.core.csv_reading import read_csv
from siglip_med.core.errors import UserError
from siglip_med.core.files import write_csv

Kind = Literal["same name", "same code", "coarser", "finer", "unknown"]
KINDS: tuple[Kind, ...] = get_args(Kind)
COLUMNS = ("external", "code", "kind", "model conditions", "images", "cases")
SEPARATOR = " | "


@dataclass(frozen=True)
class Match:
    """A label of another data set: its node of ICD-10-CM ("": none is known), and the model's conditions it fits."""

    external: str
    code: str
    kind: Kind
    conditions: tuple[str, ...] = ()


def match_labels(labels: Sequence[str], conditions: ConditionSet, codes: str | Path | None = None) -> tuple[Match, ...]:
    """Matches each label: by name, by code, coarser than conditions (any is right), finer (counts as the one above).

    A code whose title is that of the category above it with "unspecified" stands for the whole category: L40.9
    (psoriasis, unspecified) is above L40.4 (guttate psoriasis).

    Args:
        labels: names of the other set's conditions.
        conditions: of the model.
        codes: a CSV with ``condition`` and ``code``, of any level (``L40.0``, ``L40``, ``L40-L45``, ``12``); other
            labels have the code of the curated tables.

    Raises:
        UserError: the file of codes is wrong; names file and row.

    Examples:
        >>> from siglip_med.conditions import load_conditions
        >>> match_labels(["bcc", "L40"], load_conditions(["Basal Cell Carcinoma", "Psoriasis"]))[1]
        Match(external='L40', code='L40', kind='coarser', conditions=('Psoriasis',))
    """
    book, given = read_code_book(), {} if codes is None else read_codes(Path(codes))
    return tuple(match_label(label, code_of(label, given), conditions, book) for label in labels)


def match_label(label: str, code: str, conditions: ConditionSet, book: CodeBook) -> Match:
    """Matches one label, of a code of any level ("": none), as `match_labels` does."""
    if named := tuple(c.name for c in conditions if fold(c.name) == fold(label)):
        return Match(label, code, "same name", named)
    path = path_of(code, book)
    if path is None:
        return Match(label, "", "unknown")
    if equal := tuple(c.name for c in conditions if c.path == path):
        return Match(label, code, "same code", equal)
    node = stands_for(path, book)
    if below := tuple(c.name for c in conditions if c.path[: len(node)] == node):
        return Match(label, code, "coarser", below)
    above = {c.name: node for c in conditions if path[: len(node := stands_for(c.path, book))] == node}
    deepest = max(map(len, above.values()), default=0)
    nearest = tuple(name for name, node in above.items() if len(node) == deepest)
    return Match(label, code, "finer" if nearest else "unknown", nearest)


def stands_for(path: tuple[str, ...], book: CodeBook) -> tuple[str, ...]:
    """The node that a code means: its category where it is the unspecified code of it."""
    code, parent = book.codes.get(path[-1]), book.codes.get(path[-2]) if len(path) > 1 else None
    return path[:-1] if code and parent and code.title == f"{parent.title}, unspecified" else path


def code_of(label: str, given: Mapping[str, str]) -> str:
    """The code of a label: the given one (folded name -> code), the curated tables', or the label itself; "": none."""
    known = lookup().get(fold(label))
    return given.get(fold(label)) or (known.code if known else _key(label))


def _key(text: str) -> str:
    """A code, category, block or chapter as the code book writes it; empty where it has none of that name."""
    book = read_code_book()
    code, heading = book.find(text), "".join(text.split()).upper()
    return code.code if code else heading if heading in book.headings else ""


def path_of(key: str, book: CodeBook) -> tuple[str, ...] | None:
    """Keys from the chapter down to a code, category, block or chapter; None where there is no such node."""
    if key in book.codes or not key:
        return book.codes[key].path if key else None
    above = (code.path[: code.path.index(key) + 1] for code in book.codes.values() if key in code.path[:2])
    return next(above, None)


def read_codes(path: Path) -> dict[str, str]:
    """Reads a CSV with ``condition`` and ``code`` of any level: folded name -> node of ICD-10-CM."""
    text = read_csv(path, required=("condition", "code"))
    found: dict[str, str] = {}
    for number, row in text.numbered():
        name, key = fold(row["condition"]), _key(row["code"])
        if not name or name in found:
            raise UserError(f"{text.where(number)}: condition {row['condition']!r} is empty or listed before; mend it")
        if not key:
            raise UserError(
                f"{text.where(number)}: {row['code']!r} is no code, category (L40), block (L40-L45) or chapter (12) of "
                "ICD-10-CM; mend it, or remove the row of a label that has none"
            )
        found[name] = key
    return found


def as_conditions(matches: Sequence[Match], conditions: ConditionSet) -> ConditionSet:
    """The labels themselves as conditions, for their prompts: worded as the model's or the curated tables' are.

    A label that neither knows is worded by its own name, and has no description.
    """
    ours = {c.name: c for c in conditions}
    found = []
    for match in matches:
        same = (
            ours[match.conditions[0]]
            if match.kind in ("same name", "same code")
            else lookup().get(fold(match.external))
        )
        plain = Condition(match.external, match.code, "", "", "", (), "", match.external, "")
        found.append(replace(same or plain, name=match.external))
    return ConditionSet(tuple(found))


def accepted(matches: Sequence[Match], names: Sequence[str]) -> np.ndarray:
    """``[E, C]`` bool: which of the C conditions ``names`` are right for each of E matched labels."""
    return np.array([[name in match.conditions for name in names] for match in matches], dtype=bool)


def write_matches(path: Path, matches: Sequence[Match], images: Sequence[int], cases: Sequence[int]) -> None:
    """Writes the matches, with the images and cases that list each label, for a person to change and give back."""
    rows = zip(matches, images, cases, strict=True)
    write_csv(path, COLUMNS, ((m.external, m.code, m.kind, SEPARATOR.join(m.conditions), n, k) for m, n, k in rows))


def read_matches(path: Path, labels: Sequence[str], names: Sequence[str]) -> tuple[Match, ...]:
    """Reads what `write_matches` wrote and a person changed, in the order of ``labels``; the counts are not read.

    Raises:
        UserError: a label or condition that there is not, a kind that is none or does not fit its conditions, a label
            twice or missing; names file and row.
    """
    text, known = read_csv(path, required=COLUMNS[:4]), {fold(name): name for name in names}
    found: dict[str, Match] = {}
    for number, row in text.numbered():
        where, label, kind, cell = text.where(number), *(row[column].strip() for column in ("external", *COLUMNS[2:4]))
        if label not in labels or label in found:
            raise UserError(f"{where}: {label!r} is {'listed before' if label in found else 'no label of the data'}")
        chosen = next((one for one in KINDS if one == kind.casefold()), None)
        if chosen is None:
            raise UserError(f"{where}: kind is {kind!r}; it is one of {', '.join(KINDS)}")
        parts = [cell] if fold(cell) in known else [part for part in map(str.strip, cell.split("|")) if part]
        if absent := [part for part in parts if fold(part) not in known]:
            near = ", ".join(map(repr, suggest_names(absent[0], names)))
            raise UserError(f"{where}: {absent[0]!r} is no condition of the model{f'; nearest: {near}' * bool(near)}")
        if bool(parts) == (chosen == "unknown"):
            wrong = "names conditions, though its kind is unknown" if parts else "names no condition; its kind is then "
            raise UserError(f"{where}: {label!r} {wrong}{'' if parts else 'unknown'}")
        found[label] = Match(label, row["code"].strip(), chosen, tuple(known[fold(part)] for part in parts))
    if missing := [label for label in labels if label not in found]:
        raise UserError(f"{path}: no row for {missing[0]!r}, nor for {len(missing) - 1} more; add it, unknown or not")
    return tuple(found[label] for label in labels)
