"""Every ICD-10-CM code with its place in the tree and its titles, read from one small file.

``codes.csv.gz`` lists the tree from the top down (depth, code, title, inclusion terms), so that a row's parent is the
last row above it that is one level higher. `tools/build_codes.py` makes it.
"""

import csv
import gzip
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from siglip_med.conditions.condition import Condition

CODES_FILE = Path(__file__).parent / "codes.csv.gz"
CHAPTER_DEPTH, BLOCK_DEPTH, CATEGORY_DEPTH = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Code:
    """A category or code of ICD-10-CM.

    Attributes:
        code: with its dot, e.g. ``"L30.9"``.
        title: official title.
        path: keys from the chapter down to this code.
        terms: inclusion terms of the tabular list, e.g. ``("Eczema NOS",)``.
        leaf: whether it is complete; a header only groups the codes below it.
    """

    code: str
    title: str
    path: tuple[str, ...]
    terms: tuple[str, ...]
    leaf: bool


@dataclass(frozen=True)
class CodeBook:
    """The tree of ICD-10-CM.

    Attributes:
        codes: code → `Code`, categories included, in the order of the tabular list.
        headings: chapter or block key → its title.
        release: the release of ICD-10-CM that it was made from.
    """

    codes: Mapping[str, Code]
    headings: Mapping[str, str]
    release: str

    def find(self, text: str) -> Code | None:
        """The category or code that a person wrote, whatever the case and with or without the dot."""
        return self.codes.get(normalize(text))

    def leaves(self, code: Code) -> Iterator[Code]:
        """The complete codes at and below a code, in order."""
        depth = len(code.path)
        return (other for other in self.codes.values() if other.leaf and other.path[:depth] == code.path)

    def nearest(self, text: str) -> Code | None:
        """The longest existing code that an invalid code begins with, if any."""
        text = normalize(text)
        candidates = (self.codes.get(text[:length].rstrip(".")) for length in range(len(text), 2, -1))
        return next((code for code in candidates if code is not None), None)

    def chapter(self, code: Code) -> str:
        """The chapter of a code as the curated tables write it, with its Roman number."""
        key = code.path[CHAPTER_DEPTH]
        return f"{_roman(int(key))} - {self.headings[key]}"

    def block(self, code: Code) -> str:
        """The block of a code as the curated tables write it."""
        key = code.path[BLOCK_DEPTH]
        return f"{key} - {self.headings[key]}"


def normalize(text: str) -> str:
    """A code in its official form: capitals, no spaces, a dot after the third character."""
    bare = "".join(text.split()).replace(".", "").upper()
    return bare if len(bare) <= 3 else f"{bare[:3]}.{bare[3:]}"


def _roman(number: int) -> str:
    """A chapter's number (1 to 22) in Roman numerals."""
    return "X" * (number // 10) + ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")[number % 10]


@cache
def read_code_book() -> CodeBook:
    """Reads the code file that the package carries (about half a second, once)."""
    with gzip.open(CODES_FILE, "rb") as packed, io.TextIOWrapper(packed, encoding="utf-8", newline="") as file:
        release, *rows = csv.reader(file)
    codes: dict[str, Code] = {}
    headings: dict[str, str] = {}
    path: tuple[str, ...] = ()
    depths = [int(row[0]) for row in rows]
    for (_, key, title, terms), depth, below in zip(rows, depths, [*depths[1:], 0], strict=True):
        path = (*path[:depth], key)
        if depth < CATEGORY_DEPTH:
            headings[key] = title
        else:
            codes[key] = Code(key, title, path, tuple(filter(None, terms.split("|"))), leaf=below <= depth)
    return CodeBook(codes, headings, release[0])


def in_icd(name: str, code: Code | None) -> Condition:
    """A condition of that name where its code stands; without a code it is a branch of its own below the root."""
    if code is None:
        own = f"no ICD-10-CM code: {name}"
        return Condition(name, "", "", own, own, (own,) * (CATEGORY_DEPTH + 1), "", name, "")
    book = read_code_book()
    return Condition(name, code.code, code.title, book.chapter(code), book.block(code), code.path, "", name, "")
