"""Do the confidences mean what they say, and how long are the prediction sets?"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from siglip_med.report.plots.style import ACCENT, MARKERS, MUTED, PALETTE, new_figure, styled

_FEW = 20
"""Bins with fewer pairs are drawn hollow: their frequency is mostly noise."""


@styled
def reliability_figure(tables: dict[str, pd.DataFrame]) -> Figure:
    """Observed frequency against mean confidence (`reliability_table` by name), pairs in each bin below."""
    figure = new_figure(6.4, 6.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfect calibration")
    count = len(tables)
    for position, (name, table) in enumerate(tables.items()):
        color, marker = PALETTE[position], MARKERS[position]
        filled = table[table["count"] > 0]
        top.plot(filled["confidence"], filled["frequency"], color=color, linewidth=1.2)
        for enough, face in ((True, color), (False, "white")):
            part = filled[(filled["count"] >= _FEW) == enough]
            top.plot(part["confidence"], part["frequency"], marker, color=color, mfc=face, ms=5.5, zorder=3)
        top.plot([], [], color=color, marker=marker, ms=5.5, linewidth=1.2, label=name)
        width = (table["upper"] - table["lower"]) * 0.86 / count
        left = table["lower"] + (table["upper"] - table["lower"]) * 0.07 + position * width
        bottom.bar(left, table["count"], width, align="edge", color=color)
    top.set(xlim=(-0.01, 1.01), ylim=(-0.02, 1.02), ylabel="share of pairs that are positive")
    top.legend(loc="upper left")
    bottom.set(yscale="log", xlabel="confidence", ylabel="pairs (log)")
    for axes in (top, bottom):
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(visible=True, axis="both" if axes is top else "y")
    top.yaxis.set_major_formatter(PercentFormatter(1.0))
    bottom.yaxis.set_major_formatter("{x:,.0f}")  # matplotlib's own writes a formula
    bottom.yaxis.set_minor_formatter(NullFormatter())
    return figure


@styled
def set_size_figure(sizes: np.ndarray, holds: np.ndarray, conditions: int, stated: float) -> Figure:
    """How many images get how long a set, split by whether it holds a label of the image; C is the longest."""
    figure = new_figure(7.2, 3.2)
    axes = figure.add_subplot()
    longest = int(min(conditions, max(sizes.max(initial=0), 5)))
    positions = np.arange(longest + 1)
    right = np.bincount(sizes[holds], minlength=longest + 1)[: longest + 1]
    wrong = np.bincount(sizes[~holds], minlength=longest + 1)[: longest + 1]
    axes.bar(positions, right, color=ACCENT, width=0.85, label="holds a label of the image")
    axes.bar(
        positions, wrong, bottom=right, color=PALETTE[1], width=0.85, hatch="///", edgecolor="white", label="does not"
    )
    axes.margins(y=0.14)
    axes.axvline(5, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        "fixed top 5", (5, 1), xycoords=("data", "axes fraction"), xytext=(4, -2), textcoords="offset points",
        va="top", fontsize=8, color=MUTED,
    )  # fmt: skip
    axes.set(
        xlabel=f"conditions in the set ({stated:.0%} stated coverage)", ylabel="images", xlim=(-0.7, longest + 0.7)
    )
    axes.grid(visible=True, axis="y")
    axes.legend(loc="upper right")
    return figure
