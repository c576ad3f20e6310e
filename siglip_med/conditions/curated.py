"""The tables curated by hand: SCIN's 66 conditions and the vocabularies of the other data sets.

``catalog.csv`` and ``vocabularies/*.csv`` have one row per condition. A curator writes condition, phrase, code, group,
description, synonyms and rationale; ``python -m tools.build_codes`` fills in the rest from the code.
"""

import csv
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from siglip_med.conditions.condition import Condition

FOLDER = Path(__file__).parent
VOCABULARIES = ("catalog", "fitzpatrick17k", "ham10000", "pad_ufes_20", "isic2019", "isic_archive", "common")
"""Names of the curated tables, in the order in which a name is looked up."""


def table_path(vocabulary: str) -> Path:
    """The file of a curated table."""
    return FOLDER / "catalog.csv" if vocabulary == "catalog" else FOLDER / "vocabularies" / f"{vocabulary}.csv"


def fold(name: str) -> str:
    """A name without the differences that do not count: case, runs of spaces, hyphens and underscores for spaces."""
    return " ".join(unicodedata.normalize("NFC", name).replace("-", " ").replace("_", " ").split()).casefold()


@cache
def read_table(vocabulary: str) -> tuple[Condition, ...]:
    """The conditions of one curated table (see `VOCABULARIES`), in its order."""
    with table_path(vocabulary).open(encoding="utf-8", newline="") as file:
        return tuple(
            Condition(
                name=row["condition"],
                code=row["code"],
                title=row["title"],
                chapter=row["chapter"],
                block=row["block"],
                path=tuple(row["path"].split("/")),
                group=row["group"],
                phrase=row["phrase"],
                description=row["description"],
                synonyms=tuple(filter(None, row["synonyms"].split(";"))),
            )
            for row in csv.DictReader(file)
        )


def known_conditions(vocabulary: str = "catalog") -> tuple[str, ...]:
    """Names of a curated table's conditions as its data set writes them: SCIN's 66 for ``catalog``.

    Examples:
        >>> known_conditions("ham10000")
        ('akiec', 'bcc', 'bkl', 'df', 'mel', 'nv', 'vasc')
        >>> len(known_conditions())
        66
    """
    return tuple(condition.name for condition in read_table(vocabulary))


@cache
def lookup() -> Mapping[str, Condition]:
    """Folded name → condition, over all curated tables.

    Names win over phrases and synonyms, and an earlier table over a later one: ``"acne vulgaris"`` is Fitzpatrick17k's
    own label before it is a kind of acne.
    """
    known: dict[str, Condition] = {}
    tables = [condition for vocabulary in VOCABULARIES for condition in read_table(vocabulary)]
    for condition in tables:
        known.setdefault(fold(condition.name), condition)
    for condition in tables:
        for name in (condition.phrase, *condition.synonyms):
            known.setdefault(fold(name), condition)
    return MappingProxyType(known)


@cache
def coarse_groups() -> tuple[str, ...]:
    """The 16 dermatological groups, sorted."""
    return tuple(sorted({condition.group for condition in read_table("catalog")}))
