"""A user's own map from conditions to codes: a CSV with the columns ``condition`` and ``code``."""

import csv
from pathlib import Path

from siglip_med.conditions.codes import Code, read_code_book
from siglip_med.conditions.condition import Condition
from siglip_med.conditions.curated import coarse_groups, fold, lookup
from siglip_med.conditions.prompts import MAX_DESCRIPTION_WORDS
from siglip_med.conditions.suggest import in_words, suggest_codes
from siglip_med.errors import UserError
from siglip_med.seals import check_sidecar

REQUIRED = ("condition", "code")
LISTED_CODES = 6


def read_user_map(path: Path) -> dict[str, Condition]:
    """Reads a map: ``condition, code`` and, if wanted, ``group`` and ``description``; other columns are ignored.

    What a row leaves open (group, description) comes from the curated tables where they know the condition's name, and
    stays empty where they don't.

    Returns:
        folded name → condition, in the order of the file.

    Raises:
        UserError: no such file, a column or cell missing, a condition listed twice, a code that is unknown or only a
            header, a description too long for the text tower; with the row and the nearest valid codes.
    """
    conditions: dict[str, Condition] = {}
    rows: dict[str, int] = {}
    for number, row in enumerate(_read_rows(path), start=1):
        where = f"{path}, row {number}"
        name, text = (" ".join((row[column] or "").split()) for column in REQUIRED)
        for column, cell in zip(REQUIRED, (name, text), strict=True):
            if not cell:
                raise UserError(f"{where}: the {column} is empty; fill it in or remove the row")
        key = fold(name)
        if key in rows:
            raise UserError(f"{where}: {name!r} is already in row {rows[key]}; keep one of them")
        rows[key] = number
        conditions[key] = _condition(where, name, _leaf(where, name, text), row)
    if not conditions:
        raise UserError(f"{path}: it has no rows; add one for each condition")
    return conditions


def _read_rows(path: Path) -> list[dict[str, str | None]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; conditions.codes must be a CSV with the columns condition and code")
    check_sidecar(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [(column or "").strip().casefold() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV in UTF-8 ({error}); save it as one") from error
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        found = ", ".join(columns) or "none"
        raise UserError(f"{path}: the column {missing[0]!r} is missing (columns found: {found}); add it to the header")
    return rows


def _leaf(where: str, name: str, text: str) -> Code:
    """The complete code that a row names."""
    book = read_code_book()
    code = book.find(text)
    if code is not None and code.leaf:
        return code
    by_name = f"for {name!r}: {in_words(suggest_codes(name, limit=3))}"
    if code is not None:
        below = list(book.leaves(code))
        shown = ", ".join(f"{leaf.code} ({leaf.title})" for leaf in below[:LISTED_CODES])
        more = f" and {len(below) - LISTED_CODES} more" if len(below) > LISTED_CODES else ""
        raise UserError(
            f"{where}: {code.code} ({code.title}) for {name!r} is a header, not a complete code; "
            f"choose one below it: {shown}{more}; or {by_name}"
        )
    near = book.nearest(text)
    by_code = ""
    if near is not None:
        leaves = [near] if near.leaf else list(book.leaves(near))[:3]
        by_code = f"nearest codes: {', '.join(f'{leaf.code} ({leaf.title})' for leaf in leaves)}; "
    raise UserError(f"{where}: {text!r} is not an ICD-10-CM code ({book.release}); {by_code}{by_name}")


def _condition(where: str, name: str, code: Code, row: dict[str, str | None]) -> Condition:
    book = read_code_book()
    known = lookup().get(fold(name))
    description = " ".join((row.get("description") or "").split())
    words = len(description.split())
    if words > MAX_DESCRIPTION_WORDS:
        raise UserError(
            f"{where}: the description of {name!r} has {words} words; the text tower reads 64 tokens, "
            f"so shorten it to {MAX_DESCRIPTION_WORDS} words"
        )
    group = " ".join((row.get("group") or "").split())
    groups = {fold(coarse): coarse for coarse in coarse_groups()}
    return Condition(
        name=name,
        code=code.code,
        title=code.title,
        chapter=book.chapter(code),
        block=book.block(code),
        path=code.path,
        group=groups.get(fold(group), group) or (known.group if known else ""),
        phrase=known.phrase if known else name,
        description=description or (known.description if known else ""),
        synonyms=known.synonyms if known else (),
    )
