"""Which case a photograph belongs to: by a pattern of its file name, or by a table."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from siglip_med.core.csv_reading import read_csv
from siglip_med.core.errors import UserError


def by_pattern(files: Sequence[Path], pattern: str) -> dict[Path, str]:
    """The case of each file: what the one group of a regular expression captures at the start of its name.

    Raises:
        UserError: it is no such expression, or file names do not match it.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"case_pattern: {pattern!r} is no pattern ({error})") from error
    if compiled.groups != 1:
        raise UserError(f"case_pattern: {pattern!r} has {compiled.groups} groups; give it one")
    found = {file: match[1] for file in files if (match := compiled.match(file.name)) and match[1]}
    return _complete(files, found, f"have names that do not match case_pattern {pattern!r}")


def by_table(files: Sequence[Path], table: Path, column: str) -> dict[Path, str]:
    """The case of each file by a CSV with a column ``image``: a path, or the end of one that fits one file alone.

    Raises:
        UserError: the table cannot be read, lacks a column, fits two files with one row, or lacks files.
    """
    rows = {key: row for key, (_, row) in read_csv(table, required=("image", column)).by_key("image").items()}
    found, used = dict[Path, str](), Counter[str]()
    for file in files:
        ends = ["/".join(file.parts[start:]) for start in range(len(file.parts))]
        key = next((end for end in (str(file), *ends) if end in rows), None)
        if key is not None and rows[key][column].strip():
            found[file] = rows[key][column].strip()
            used[key] += 1
    if twice := [key for key, count in used.items() if count > 1]:
        raise UserError(f"{table}: the image {twice[0]!r} fits {used[twice[0]]} files; name it with its folder")
    return _complete(files, found, f"are not in {table}, or have no {column} there")


def _complete(files: Sequence[Path], found: dict[Path, str], what: str) -> dict[Path, str]:
    lost = [file for file in files if file not in found]
    if lost:
        raise UserError(f"{len(lost):,} of {len(files):,} photographs {what}; the first: {lost[0]}")
    return found
