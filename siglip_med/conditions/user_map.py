"""A user's own map from conditions to codes: a CSV with the columns ``condition`` and ``code``."""

from dataclasses import replace
from pathlib import Path

from siglip_med.conditions.codes import Code, in_icd, read_code_book
from siglip_med.conditions.condition import Condition
from siglip_med.conditions.curated import coarse_groups, fold, lookup
from siglip_med.conditions.prompts import MAX_DESCRIPTION_WORDS
from siglip_med.conditions.suggest import in_words, is_english, suggest_codes
from siglip_med.core.csv_reading import read_csv
from siglip_med.core.errors import UserError
from siglip_med.core.seals import check_sidecar

REQUIRED = ("condition", "code")
LISTED_CODES = 6


def read_user_map(path: Path) -> dict[str, Condition]:
    """Reads a map: ``condition, code`` and, if wanted, ``wording``, ``synonyms``, ``group``, ``description``.

    A condition that ICD-10-CM has no code for (healthy skin, "other") has an empty ``code``.

    ``condition`` is the key, as the data writes it; ``wording`` is how a sentence names it; ``synonyms`` are separated
    by semicolons. Other columns are ignored. What a row leaves open comes from the curated tables where they know the
    condition's name. A missing wording is the name itself if it reads like English (see `is_english`),
    and the title of its code otherwise: keys such as ``AKIEC``, ``0`` or ``Ekzem`` are no English.

    Returns:
        folded name → condition, in the order of the file.

    Raises:
        UserError: no such file, a column or name missing, a condition listed twice, a code that is unknown or only a
            header, a description too long for the text tower; with the row and the nearest valid codes.
    """
    conditions: dict[str, Condition] = {}
    rows: dict[str, int] = {}
    for number, row in enumerate(_read_rows(path), start=1):
        where = f"{path}, row {number}"
        name, text = (" ".join((row[column] or "").split()) for column in REQUIRED)
        if not name:
            raise UserError(f"{where}: the condition is empty; fill it in or remove the row")
        key = fold(name)
        if key in rows:
            raise UserError(f"{where}: {name!r} is already in row {rows[key]}; keep one of them")
        rows[key] = number
        conditions[key] = _condition(where, name, _leaf(where, name, text) if text else None, row)
    if not conditions:
        raise UserError(f"{path}: it has no rows; add one for each condition")
    return conditions


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; conditions.codes must be a CSV with the columns condition and code")
    check_sidecar(path)
    table = read_csv(path, hints=REQUIRED)
    columns = {column: column.casefold() for column in table.columns}
    missing = [column for column in REQUIRED if column not in columns.values()]
    if missing:
        found = ", ".join(table.columns) or "none"
        raise UserError(f"{path}: the column {missing[0]!r} is missing (columns found: {found}); add it to the header")
    return [{columns[column]: cell for column, cell in row.items()} for row in table.rows]


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


def _condition(where: str, name: str, code: Code | None, row: dict[str, str]) -> Condition:
    known = lookup().get(fold(name))
    description = " ".join((row.get("description") or "").split())
    words = len(description.split())
    if words > MAX_DESCRIPTION_WORDS:
        raise UserError(
            f"{where}: the description of {name!r} has {words} words; the text tower reads 64 tokens, "
            f"so shorten it to {MAX_DESCRIPTION_WORDS} words"
        )
    group = " ".join((row.get("group") or "").split())
    synonyms = tuple(" ".join(text.split()) for text in (row.get("synonyms") or "").split(";") if text.strip())
    groups = {fold(coarse): coarse for coarse in coarse_groups()}
    return replace(
        in_icd(name, code),
        group=groups.get(fold(group), group) or (known.group if known else ""),
        phrase=" ".join((row.get("wording") or "").split()) or (known.phrase if known else _wording(name, code)),
        description=description or (known.description if known else ""),
        synonyms=synonyms or (known.synonyms if known else ()),
    )


def _wording(name: str, code: Code | None) -> str:
    """How to name a condition of which only a key and a code are known: see `read_user_map`."""
    if code is None or is_english(name):
        return name
    title = code.title.removesuffix(", initial encounter").removesuffix(", unspecified")
    return title[:1].lower() + title[1:] if title[1:2].islower() else title
