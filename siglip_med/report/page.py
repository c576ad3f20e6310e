"""A report as data: sections of sentences, tables and figures, written as HTML, Markdown and JSON; and its numbers."""

import base64
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from siglip_med.core.files import write_bytes, write_text
from siglip_med.core.outside import finalize, markdown, printable
from siglip_med.metrics import Interval, PairedResult
from siglip_med.report.plots.style import DPI

NOT_DEFINED = "–"


@dataclass(frozen=True)
class Figure:
    """A picture; ``minimum_width`` is the pixels below which a phone scrolls instead of shrinking it."""

    name: str
    png: bytes
    alternative: str
    caption: str
    minimum_width: int = 0

    @property
    def data_uri(self) -> str:
        """The picture itself as an address, so that a page needs no other file."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")

    @property
    def width(self) -> int:
        """Pixels on a page: the picture's own width at `DPI`, read from the PNG's header, at 100 pixels an inch."""
        return round(int.from_bytes(self.png[16:20], "big") * 100 / DPI)


class Link(str):
    """The text of a cell that leads to another file; in Markdown and elsewhere it is its text."""

    href: str

    def __new__(cls, text: str, href: str) -> "Link":
        """A text, and the address, relative to the page."""
        link = super().__new__(cls, text)
        link.href = href
        return link


@dataclass(frozen=True)
class Table:
    """Text cells; the first ``text_columns`` are left-aligned. ``groups``: headings over so many columns each."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    tall: bool = False
    groups: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Section:
    """One question with its answer; ``data`` holds the numbers behind it, unrounded."""

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """One number that a reader sees first, with its interval and what it is compared with."""

    label: str
    value: str
    interval: str
    beside: str


@dataclass(frozen=True)
class Page:
    """A whole report; ``notice`` says what the images are, ``links`` gives addresses of files beside the page."""

    title: str
    lead: str
    facts: Mapping[str, str]
    cards: tuple[Card, ...]
    sections: tuple[Section, ...]
    notice: str = ""
    verdict: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)


def environment(write: Callable[[object], str] = markdown) -> Environment:
    """Finds the templates, which put out every value as ``write`` makes it, and a page of HTML escapes it."""
    templates = Environment(
        loader=PackageLoader("siglip_med.report"),
        autoescape=select_autoescape(("html.jinja",)),
        finalize=finalize(write),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"unbroken": _unbroken, "sort_key": sort_key}
    return templates


def write_page(page: Page, folder: Path, name: str) -> Path:
    """Writes ``<name>.html``, ``<name>.md``, ``<name>.json`` and the Markdown's ``figures/``.

    The HTML page holds its figures and its style and fetches nothing. Each file is replaced in one step.
    """
    html = environment(partial(printable, keep="\n")).get_template("page.html.jinja").render(page=page)
    text = environment().get_template("page.md.jinja").render(page=page)
    for section in page.sections:
        for figure in section.figures:
            write_bytes(folder / "figures" / f"{figure.name}.png", figure.png)
    write_text(folder / f"{name}.md", text)
    write_text(folder / f"{name}.json", json.dumps(_numbers(page), indent=1, ensure_ascii=False, allow_nan=False))
    write_text(folder / f"{name}.html", html)
    return folder / f"{name}.html"


def _numbers(page: Page) -> dict[str, Any]:
    verdict = {"verdict": list(page.verdict)} if page.verdict else {}
    data = {section.key: plain(section.data) for section in page.sections if section.data}
    return {"title": page.title, "notice": page.notice, "facts": dict(page.facts)} | verdict | data


def plain(value: Any) -> Any:
    """Plain JSON types: dataclasses as mappings, NumPy values unwrapped, an undefined number as None."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def sort_key(cell: str) -> str:
    """What a column of numbers is sorted by: the cell's first number; empty where there is none.

    Examples:
        >>> sort_key("0.483 [0.431, 0.530]"), sort_key("1,204"), sort_key("-3.5%"), sort_key("–")
        ('0.483', '1204', '-3.5', '')
    """
    found = re.match(r"\D{0,8}?([+-]?\d[\d,]*(?:\.\d+)?)", cell)
    return found[1].replace(",", "").removeprefix("+") if found else ""


def _unbroken(cell: str) -> str:
    """An interval breaks before its bracket or not at all, so that a narrow column shows it whole."""
    return re.sub(r"\[[^\]]*\]|\bp [<\d][ .\d]*", lambda match: match[0].replace(" ", "\u00a0"), cell)


def bounds(low: float, high: float, form: str = ".3f") -> str:
    """``[0.431, 0.530]``, or nothing where the interval is undefined."""
    return f"[{low:{form}}, {high:{form}}]" if math.isfinite(low) and math.isfinite(high) else ""


def number(value: float | None, digits: int = 3) -> str:
    """``0.483``; a dash where the value is undefined."""
    return NOT_DEFINED if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def counted(count: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def percent(value: float) -> str:
    """``48%``; one decimal below 10%."""
    if not math.isfinite(value):
        return NOT_DEFINED
    return f"{value:.1%}" if 0 < abs(value) < 0.0995 else f"{value:.0%}"


def with_range(interval: Interval, form: str = ".3f") -> str:
    """``0.483 [0.431, 0.530]``; a dash where the estimate is undefined."""
    if not math.isfinite(interval.estimate):
        return NOT_DEFINED
    return f"{interval.estimate:{form}} {bounds(interval.low, interval.high, form)}".rstrip()


def p_value(value: float) -> str:
    """``p 0.012``; ``p < 0.001`` below that."""
    if not math.isfinite(value):
        return ""
    return "p < 0.001" if value < 0.001 else f"p {value:.3f}"


def gain(result: PairedResult) -> str:
    """``+0.120 [+0.081, +0.160]``."""
    return with_range(Interval(result.difference, result.low, result.high), "+.3f")


def change(result: PairedResult) -> str:
    """``+0.120 [+0.081, +0.160], p < 0.001``."""
    return ", ".join(filter(None, (gain(result), p_value(result.p_value))))
