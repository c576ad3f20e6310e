"""Rebuilds what is derived from ICD-10-CM: the code file and the derived columns of the curated tables.

``python -m tools.build_codes`` needs ``pip install 'siglip-med[codes]'``.
"""

import csv
import gzip
import io
from pathlib import Path
from typing import Any

from siglip_med.conditions.codes import (
    BLOCK_DEPTH,
    CATEGORY_DEPTH,
    CHAPTER_DEPTH,
    CODES_FILE,
    CodeBook,
    read_code_book,
)
from siglip_med.conditions.curated import VOCABULARIES, lookup, read_table, table_path
from siglip_med.core.errors import UserError
from siglip_med.core.extras import require
from siglip_med.core.files import write_bytes, write_text


def build_codes() -> str:
    """Writes ``codes.csv.gz`` from `simple_icd_10_cm`, then refreshes the curated tables.

    Returns:
        one line that says what was written.

    Raises:
        UserError: the library is not installed, or a curated row has a code that is not a leaf.
    """
    library = require("simple_icd_10_cm", feature="build-codes", extra="codes")
    rows = code_rows(library)
    write_code_file(rows, release=_release(library), path=CODES_FILE)
    for cached in (read_code_book, read_table, lookup):
        cached.cache_clear()
    book = read_code_book()
    for vocabulary in VOCABULARIES:
        refresh_table(table_path(vocabulary), book)
    return f"{CODES_FILE.name}: {len(rows)} rows, {book.release}; {len(VOCABULARIES)} tables refreshed"


def code_rows(library: Any) -> list[tuple[int, str, str, str]]:
    """``(depth, code, title, inclusion terms)`` of every chapter, block and code, from the top down.

    Args:
        library: the module `simple_icd_10_cm`, whose list names a one-category block and its category alike (``T14``):
            the first is the block.
    """
    depths: dict[str, int] = {}
    rows = []
    for code in library.get_all_codes(True):
        if code.isdigit():
            depth = CHAPTER_DEPTH
        elif "-" in code or (len(code) == 3 and code not in depths and library.is_block(code)):
            depth = BLOCK_DEPTH
        elif len(code) == 3:
            depth = CATEGORY_DEPTH
        else:
            depth = depths[library.get_parent(code)] + 1
        depths[code] = depth
        title = library.get_description(code)
        if depth == BLOCK_DEPTH:
            title = title.removesuffix(f" ({code})")
        terms = "|".join(library.get_inclusion_term(code)) if depth >= CATEGORY_DEPTH else ""
        rows.append((depth, code, title, terms))
    return rows


def write_code_file(rows: list[tuple[int, str, str, str]], release: str, path: Path) -> None:
    """Writes the rows with the release in front; the same rows give the same bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([release])
    writer.writerows(rows)
    write_bytes(path, gzip.compress(text.getvalue().encode("utf-8"), compresslevel=9, mtime=0))


def refresh_table(path: Path, book: CodeBook) -> None:
    """Fills in title, chapter, block, category and path of a curated table from its codes.

    Raises:
        UserError: a row's code is unknown or a header.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or ())
        rows = list(reader)
    for number, row in enumerate(rows, start=1):
        code = book.find(row["code"])
        if code is None or not code.leaf:
            raise UserError(f"{path.name}, row {number}: {row['code']} is not a complete ICD-10-CM code; correct it")
        row.update(title=code.title, chapter=book.chapter(code), block=book.block(code))
        row.update(code=code.code, category=code.path[CATEGORY_DEPTH], path="/".join(code.path))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _release(library: Any) -> str:
    lists = sorted(path.stem for path in (Path(library.__file__).parent / "data").glob("code-list-*.txt"))
    return "ICD-10-CM " + " ".join(lists[-1].removeprefix("code-list-").split("-"))


if __name__ == "__main__":
    print(build_codes())
