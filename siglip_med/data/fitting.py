"""Which settings fit a table of photographs: found from its columns, its cells and the files beside it."""

import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from siglip_med.conditions.curated import fold, lookup
from siglip_med.core.csv_reading import TextTable
from siglip_med.core.errors import UserError
from siglip_med.core.shell import in_quotes, mapping, setting
from siglip_med.data.images import SUFFIXES
from siglip_med.data.naming import same_names, separator_of, share_known
from siglip_med.data.values import is_unknown, parse_flag, parse_skin_tone, parse_split

_ROWS, _FILES = 2_000, 200_000
"""Most rows and most files that are looked at."""
_LISTED = 5
"""Most unknown names that are listed."""
_ENOUGH, _MOST = 0.5, 0.95
"""Share of the cells that a guess needs, and one that goes by a column's name."""
_CONDITIONS = ("condition", "diagnosis", "diagnoses", "dx", "label", "labels", "disease", "class", "target")
_GROUPS = ("patient", "subject", "person", "participant", "case", "lesion", "lookalikegroup", "neardupgroup", "group")
_NAMED = {
    "skin_tone_column": (
        "skintone",
        "fitzpatrick",
        "fitspatrick",
        "fitzpatrickscale",
        "fitzpatrickskintype",
        "skintype",
        "fst",
    ),
    "sex_column": ("sex", "gender"),
    "age_column": ("age", "ageapprox", "ageyears", "agegroup"),
    "site_column": ("site", "bodysite", "anatomsite", "anatomsitegeneral", "localization", "location", "region"),
    "split_column": ("split", "partition", "subset"),
}
Cells = dict[str, list[str]]


@dataclass(frozen=True)
class Fit:
    """A setting that a table asks for, by its whole key, and why."""

    key: str
    value: str | list[str] | dict[str, str | None]
    why: str

    @property
    def word(self) -> str | None:
        """As one types it in a shell; None where Hydra has no way to write it."""
        if isinstance(self.value, str):
            return setting(self.key, self.value)
        if isinstance(self.value, list):
            return shlex.quote(f"{self.key}=[{','.join(map(in_quotes, self.value))}]")
        return mapping(self.key, self.value)


def fitting(text: TextTable, source: Mapping[str, Any], coded: bool = False) -> list[Fit]:
    """What the source of a table should be told that its settings do not say yet; nothing where they fit.

    Args:
        text: the table, of whose first rows it is found.
        source: settings of `siglip_med.sources.CsvSource`.
        coded: whether names of conditions are looked up in a file of codes of one's own: none is proposed then.
    """
    cells = {column: [row[column].strip() for row in text.rows[:_ROWS]] for column in text.columns}
    found = [*_image(cells, source), *_conditions(cells, text, source, coded)]
    taken = {str(value).casefold() for key, value in source.items() if key.endswith("_column") and value}
    taken |= {fit.value.casefold() for fit in found if isinstance(fit.value, str)}
    free = {column: values for column, values in cells.items() if column.casefold() not in taken}
    return found + _others(free, source)


def _image(cells: Cells, source: Mapping[str, Any]) -> list[Fit]:
    """Column, folder and suffix by which most rows find a file below the root."""
    now = {name: str(source.get(name) or "") for name in ("image_column", "image_folder", "image_suffix")}
    if "{" in now["image_column"] or source.get("image_folders"):
        return []
    files = _files(Path(str(source["root"])).expanduser())
    spelled = [{file: file for file in files}, {Path(file).name: file for file in files}]
    spelled.append({Path(file).stem: file for file in files})
    votes: Counter[tuple[str, str, str]] = Counter()
    for column, values in cells.items():
        for name in (value.replace("\\", "/") for value in values if value):
            if (file := next((of[name] for of in spelled if name in of), None)) is not None:
                folder, _, suffix = file.rpartition(name)
                votes[column, folder.rstrip("/"), suffix] += 1
    rows = max(map(len, cells.values()))
    enough = {key: count for key, count in votes.items() if count >= _ENOUGH * rows}
    given = now["image_column"].casefold()
    best = max(enough, key=lambda key: (key[0].casefold() == given, enough[key]), default=None)
    if best is None:
        return []
    why = f"so {enough[best]:,} of {rows:,} rows looked at find a file below the root"
    pairs = zip(now.items(), best, strict=True)
    return [
        Fit(f"data.source.{key}", value, why)
        for (key, old), value in pairs
        if value.casefold() != old.casefold().rstrip("/")
    ]


def _files(root: Path) -> list[str]:
    """Images below a folder, by their paths from it."""
    found: list[str] = []
    for folder, _, names in os.walk(root):
        inside = Path(folder).relative_to(root)
        found += [(inside / name).as_posix() for name in names if Path(name).suffix.lower() in SUFFIXES]
        if len(found) > _FILES:
            break
    return found


def _conditions(cells: Cells, text: TextTable, source: Mapping[str, Any], coded: bool) -> list[Fit]:
    """The column of conditions with separator and aliases, or the columns that are conditions."""
    if any(source.get(f"condition_{shape}") for shape in ("columns", "prefix", "columns_except")):
        return []
    wanted = str(source.get("condition_column") or "condition").casefold()
    column = next((column for column in cells if column.casefold() == wanted), "")
    found: list[Fit] = []
    if not column:
        flags = [
            one
            for one, values in cells.items()
            if fold(one) in lookup() and _readable(values, partial(parse_flag, where=""))
        ]
        if len(flags) > 1:
            return [Fit("data.source.condition_columns", flags, "their cells are flags, their names conditions")]
        shares = {one: share_known(values) for one, values in cells.items()}
        column = max(shares, key=lambda one: (shares[one], _plain(one) in _CONDITIONS))
        if shares[column] < _ENOUGH:
            column = next((one for one in cells if _plain(one) in _CONDITIONS), "")
        if not column:
            return []
        found.append(Fit("data.source.condition_column", column, f"{shares[column]:.0%} of its cells name conditions"))
    separator = source.get("condition_separator") or separator_of(cells[column])
    if separator and not source.get("condition_separator"):
        several = sum(separator in value for value in cells[column])
        found.append(Fit("data.source.condition_separator", separator, f"{several:,} cells list several by it"))
    given = source.get("aliases") or {}
    if not (coded or isinstance(given, str)):
        rows: dict[str, list[int]] = defaultdict(list)
        for number, row in text.numbered():
            for part in row[column].split(separator) if separator else [row[column]]:
                rows[part.strip()] += [number]
        found += _aliases({name: at for name, at in rows.items() if name not in map(str, given)}, given)
    return found


def _aliases(rows: Mapping[str, Sequence[int]], given: Mapping[Any, str | None]) -> list[Fit]:
    """Names that mean the same become one; null for those that nobody knows, where most are known."""
    same = same_names([name for name, at in rows.items() for _ in at])
    unknown = [name for name in rows if not (name in same or is_unknown(name) or fold(name) in lookup())]
    filled = sum(len(at) for name, at in rows.items() if not is_unknown(name))
    strange = sum(len(rows[name]) for name in unknown)
    whys = ["names of one condition, or misspelled"] * bool(same)
    if strange and strange <= (1 - _ENOUGH) * filled:
        first = ", ".join(f"{name!r} (row {rows[name][0]})" for name in unknown[:_LISTED])
        more = f" and {len(unknown) - _LISTED:,} more" if len(unknown) > _LISTED else ""
        whys.append(
            f"null leaves out what no curated table has, in {strange:,} row{'s' * (strange > 1)}: {first}{more}"
        )
    else:
        unknown = []
    if not whys:
        return []
    every = {str(name): new for name, new in given.items()} | same | dict.fromkeys(unknown)
    return [Fit("data.source.aliases", every, f"{'; '.join(whys)}: look at them")]


def _others(cells: Cells, source: Mapping[str, Any]) -> list[Fit]:
    """Whose an image is, and columns on people, by their names, where all of their cells can be read."""
    found = []
    group = next((column for name in _GROUPS for column in cells if _is_group(column, cells[column], name)), None)
    if group is not None and not source.get("group_column"):
        filled = [value for value in cells[group] if not is_unknown(value)]
        why = f"{len(filled):,} rows have {len(set(filled)):,} of them"
        found.append(Fit("data.source.group_column", group, why))
    readable: dict[str, Callable[[str], object]] = {
        "skin_tone_column": partial(parse_skin_tone, where=""),
        "split_column": partial(parse_split, where=""),
    }
    for key, names in _NAMED.items():
        column = next((column for name in names for column in cells if _plain(column) == name), None)
        if column is not None and not source.get(key) and _readable(cells[column], readable.get(key, str), _MOST):
            found.append(Fit(f"data.source.{key}", column, "by its name"))
            found += [Fit("data/splitter", "given", "the table has a split")] * (key == "split_column")
    return found


def _is_group(column: str, values: Sequence[str], name: str) -> bool:
    filled = [value for value in values if not is_unknown(value)]
    return re.sub("(id|number|no|code)$", "", _plain(column)) == name and len(set(filled)) < len(filled)


def _readable(values: Sequence[str], read: Callable[[str], object], share: float = 1.0) -> bool:
    """Whether that share of the cells that say something can be read."""
    filled, good = [value for value in values if not is_unknown(value)], 0
    for value in filled:
        with suppress(UserError):
            read(value)
            good += 1
    return bool(filled) and good >= share * len(filled)


def _plain(column: str) -> str:
    return re.sub("[^a-z0-9]", "", column.casefold())
