"""Where text of tables, folders, checkpoints and bases leaves the program: a function for each kind of reader."""

import logging
import re
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from rich.console import Console as RichConsole
from rich.text import Text

if TYPE_CHECKING:  # they take long to import
    import pandas as pd

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = re.compile("'*(?!-\\d{10,}(\\.\\w+)?$)[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_INTERVAL = r"\[[-+]?\d[-+\d., \u00a0]*\](?![\[(:])"
_MARKDOWN = re.compile(
    rf"(?P<interval>{_INTERVAL})|[\\`*\[\]|~$]|_(?![^\W_])|(?<![^\W_])_|<(?=[A-Za-z/!?])|&(?=#?\w+;)|:(?=//)"
    r"|(?<=\bwww)\.|^[#>]|^[-+](?=\s|$)|^[-=]+$|(?:(?<=^\d)|(?<=^\d\d)|(?<=^\d\d\d))[.)](?=\s|$)"
)


def printable(text: object, keep: str = "") -> str:
    r"""A text whose control characters are seen, not obeyed: ``\x1b`` in place of the byte that a terminal obeys.

    So are characters that turn the direction of writing, ends of lines and what is no character at all (the bytes of a
    file name that are not UTF-8); ``keep`` lists those that stay.

    Examples:
        >>> printable("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    return _UNSEEN.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], str(text))


def csv_cell(value: object) -> object:
    """A cell that no spreadsheet runs: text like a formula gets an apostrophe in front; see `csv_text`.

    A long negative number stays: it is no formula, and by such names (SCIN's) others join tables.

    Examples:
        >>> csv_cell("=cmd()"), csv_cell("-1"), csv_cell(-1)
        ("'=cmd()", "'-1", -1)
    """
    if not isinstance(value, str):
        return value
    return f"'{value}" if _FORMULA.match(value) else value


def csv_text(cell: str) -> str:
    """What `csv_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def frame_csv(frame: "pd.DataFrame", **options: Any) -> str:
    """A table as CSV without formulas; ``options`` are those of ``DataFrame.to_csv``."""
    texts = frame.select_dtypes(exclude=["number", "bool"]).columns
    cells = frame.assign(**{name: frame[name].map(csv_cell, na_action="ignore") for name in texts})
    return cells.rename(columns=csv_cell).to_csv(index=False, lineterminator="\n", **options)


def markdown(value: object) -> str:
    """A text on one line of Markdown that makes no heading, table cell, link, emphasis, formula or HTML of its own.

    Examples:
        >>> markdown("## a|b <script> [c](d) 0.5 [0.4, 0.6]")
        '\\\\## a\\\\|b \\\\<script> \\\\[c\\\\](d) 0.5 [0.4, 0.6]'
    """
    text = printable(re.sub(r"[\t\r\n]+", " ", str(value)))
    return _MARKDOWN.sub(lambda found: found[0] if found["interval"] else f"\\{found[0]}", text.strip())


def finalize(write: Callable[[object], str]) -> Callable[[object], object]:
    """For Jinja: ``write`` has every value that a template puts out, but for what is marked as safe."""
    return lambda value: value if hasattr(value, "__html__") else write(value)


class Console(RichConsole):
    """A terminal on which every text is shown as it is: no markup, no emoji codes, no control characters."""

    def __init__(self, **options: Any) -> None:
        """As rich's own."""
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every text of a line or of a table comes by here."""
        return super().render_str(printable(text, keep="\n"), **options)


def say(text: str) -> None:
    """A line beside the results: on standard error, one line however narrow the terminal."""
    Console(stderr=True).print(text, soft_wrap=True, highlight=False)


def printable_record(record: logging.LogRecord) -> bool:
    """A filter of logging handlers, whose messages go to a terminal."""
    record.msg, record.args = printable(record.getMessage(), keep="\n"), ()
    return True


def without_formulas(draw: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Draws texts as they are: a ``$`` begins no formula of matplotlib's."""

    @wraps(draw)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        import matplotlib as mpl  # slow to import

        with mpl.rc_context({"text.parse_math": False}):
            return draw(*args, **kwargs)

    return wrapped
