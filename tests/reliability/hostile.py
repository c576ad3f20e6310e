"""Texts that mean something to some program that shows them, and what structure is left of a page that holds them."""

from html.parser import HTMLParser

from hypothesis import strategies as st
from markdown_it import MarkdownIt

from siglip_med.core.csv_reading import control_character

HOSTILE = (
    r"$\frac{1}{$", "$$", r"\alpha", r"a $x^{$ b", "50 $ to 60 $", "_hidden", "*bold* _it_ __b__", "~~gone~~",
    "## Cleared for clinical use", "# x", "a|b", "|", r"a\|b", r"\\", "---", "===", "> quoted", "- item", "+ item",
    "1. first", "12) twelfth", "`code`", "```", "[x](http://evil.example)", "![x](y.png)", "[x][y]", "[x]: y", "]", "[",
    "[ ] task", "<https://evil.example>", "https://evil.example/a", "www.evil.example", "<script>alert(1)</script>",
    "<!-- x", "</td></table>", "&lt;b&gt;", "&#35;", '" onload="x', "{{ 7 * 7 }}", "{% raw %}", "=cmd()",
    "=1+1|' /C calc'!A0", "+1", "-1", "@x", "'=x", "''-1", "\uff1dcmd()", "[bold red]x[/]", "[/]", ":warning:",
    "[link=http://evil.example]x[/link]", "a\u202eb", "100%s %d {}", "a/b/../c", "x" * 180,
    "\u00e4\u00df \u76ae\u819a \U0001f600",
)  # fmt: skip
"""What a table may hold."""
CONTROL = (
    "\x1b[2J",
    "a\x1b]0;x\x07b",
    "\x00",
    "\x9b31m",
    "a\rb",
    "a\nb",
    "a\tb",
    "\u2028## x",
    "\udcff.jpg",
    "\n\n# x",
)
"""What file names, checkpoints and bases may hold besides."""
ANY = st.one_of(
    st.sampled_from(HOSTILE + CONTROL),
    st.text(alphabet=st.sampled_from("ab1 $\\`*_~#|[]()<>&!:/.-+=@'\"{}\x1b\n\t\u00a0\u202e"), min_size=1, max_size=25),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=25),
).filter(lambda text: text.strip())
IN_TABLES = ANY.filter(lambda text: control_character(text) is None)
OBEYED = {*map(chr, (*range(32), *range(127, 160))), "\u2028", "\u2029", "\u202e"} - {"\n"}

_MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def obeyed(text: str) -> set[str]:
    """Control characters of an output."""
    return OBEYED & set(text)


def markdown_shape(text: str) -> list[str]:
    """Kinds of all elements of a Markdown text, in order; those of GitHub included, but for its own autolinks."""
    shape = []
    for token in _MARKDOWN.parse(text):
        shape += [token.type] + [
            inner.type for inner in token.children or () if inner.type not in ("text", "text_special")
        ]
    return shape


def markdown_text(text: str) -> str:
    """What a reader sees of it."""
    lines = (inner.content for token in _MARKDOWN.parse(text) for inner in token.children or ())
    return "".join(lines)


class _Shape(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, ...]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag):
        self.found.append(("/" + tag,))

    def handle_comment(self, data):
        self.found.append(("comment",))


def html_shape(text: str) -> list[tuple[str, ...]]:
    """Tags of a page with the names of their attributes, in order."""
    parser = _Shape()
    parser.feed(text)
    return parser.found
