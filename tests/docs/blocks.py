"""The fenced blocks of the documentation, and the comment that says what a test is to do with one.

``<!-- test: run -->`` executes a block, with few images and steps added to its training commands;
``<!-- test: file NAME -->`` writes it for the blocks of its page that run or compose; ``<!-- test: skip: REASON -->``
leaves it alone. Without a comment a bash block is composed and checked, a Python block is compiled and its imports and
calls are checked, and other languages are for reading; a block of no language is an error.
"""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "experiments").glob("**/README.md")),
]
READ_ONLY = {"text", "csv", "yaml"}
_BLOCK = re.compile(
    r"(?:^ *<!-- test: (?P<mark>.*?) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```",
    flags=re.DOTALL | re.MULTILINE,
)
_OPERATORS = {"|", "||", "&&", ";", "&"}


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        where: page and line.
        page: its file.
        language: behind the fence.
        mark: of the comment before it, or empty.
        body: without indentation.
    """

    where: str
    page: Path
    language: str
    mark: str
    body: str


def blocks(page: Path) -> list[Block]:
    """Every block of a page."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        where = f"{page.relative_to(ROOT)}:{line}"
        body = textwrap.dedent(match["body"])
        found.append(Block(where, page, match["language"], match["mark"] or "", body))
    assert 2 * len(found) == len(re.findall(r"^ *```", text, flags=re.MULTILINE)), f"{page}: a fence is not closed"
    return found


def every_block() -> list[Block]:
    """The blocks of all pages."""
    return [block for page in PAGES for block in blocks(page)]


def commands(script: str) -> Iterator[list[str]]:
    """The words of each simple command of a script, without comments and without variables set before it."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _OPERATORS:
                words.append(word)
                continue
            while words and (words[0] == "{" or re.match(r"[A-Z_]+=", words[0])):
                words.pop(0)
            if words:
                yield words
            words = []
