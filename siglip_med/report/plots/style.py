"""One look for every figure: a color-blind safe palette, quiet axes, and no global matplotlib state."""

import io
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from siglip_med.core.outside import printable

Parameters = ParamSpec("Parameters")

INK, MUTED, GRID, ACCENT = "#1f2933", "#66717e", "#dfe4ea", "#0072B2"
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D31", "#1f2933")
"""Okabe & Ito 2008, its yellow replaced by a brown that is legible on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DPI = 170
"""Dots an inch of a figure on a page: sharp on a screen with small pixels, and still small as a file."""
SEQUENTIAL, DISTANCE = "Blues", "viridis_r"

_STYLE: Any = {
    "text.parse_math": False,  # names are outside text: a dollar begins no formula
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def styled(draw: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Draws with the project's style and leaves matplotlib's settings as they were."""

    @wraps(draw)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapped


def new_figure(width: float, height: float) -> Figure:
    """A figure of ``width`` x ``height`` inches that no window system knows of."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure as the bytes of a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def shorten(text: str, length: int) -> str:
    """``text`` cut to ``length`` characters, with an ellipsis where something is missing."""
    text = printable(text)
    return text if len(text) <= length else text[: length - 1].rstrip(" ,-") + "…"
