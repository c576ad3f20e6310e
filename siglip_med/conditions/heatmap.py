"""A picture of D, ordered by the tree, with a bar for each chapter."""

import textwrap
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from siglip_med.conditions.condition import ConditionSet
from siglip_med.conditions.tree import tree_order
from siglip_med.core.files import write_whole
from siglip_med.core.outside import printable, without_formulas

SMALLEST_INCHES, LARGEST_INCHES, INCHES_A_CONDITION = 3.0, 40.0, 0.17
BAR_INCHES, GAP_POINTS = 0.1, 10
CAPTION_WIDTH = 48


@without_formulas
def draw_heatmap(matrix: np.ndarray, conditions: ConditionSet, title: str, path: Path) -> None:
    """Draws ``[C, C]`` D with conditions in tree order and chapters as colored bars, and saves it.

    Args:
        matrix: D.
        conditions: the C conditions of D.
        title: what D was made with.
        path: the file to write; its ending chooses the format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = tree_order(conditions)
    side = min(max(INCHES_A_CONDITION * len(order), SMALLEST_INCHES), LARGEST_INCHES)
    figure = Figure(figsize=(side, side))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    image = axes.imshow(matrix[np.ix_(order, order)], cmap="viridis_r", vmin=0, vmax=1, interpolation="nearest")
    labels = [printable(f"{conditions.names[position]}  {conditions.codes[position]}") for position in order]
    axes.set_xticks(range(len(order)), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(len(order)), labels, fontsize=7)
    axes.tick_params(length=0, pad=GAP_POINTS)
    axes.set_title(title, fontsize=11)
    _chapter_bars(axes, [conditions.chapters[position] for position in order], BAR_INCHES * len(order) / side)
    scale = axes.inset_axes((1 + 0.25 / side, 0.0, 0.15 / side, min(0.4, 2.5 / side)))
    figure.colorbar(image, cax=scale)
    scale.set_title("dissimilarity D", loc="left", fontsize=8)
    scale.tick_params(labelsize=7)
    kind = path.suffix.removeprefix(".")
    write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=130, bbox_inches="tight", pad_inches=0.2))


def _chapter_bars(axes: Any, chapters: list[str], thickness: float) -> None:
    """A colored bar for each run of one chapter, left of the rows and below the columns, and a legend."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    start, edge, bars = 0, len(chapters) - 0.5, []
    for number, (chapter, run) in enumerate(groupby(chapters)):
        length = len(list(run))
        style: dict[str, Any] = {"color": colormaps["tab20"](number % 20), "clip_on": False, "linewidth": 0}
        caption = textwrap.fill(chapter, CAPTION_WIDTH, subsequent_indent="   ")
        bars.append(Rectangle((-0.5 - thickness, start - 0.5), thickness, length, label=caption, **style))
        axes.add_patch(bars[-1])
        axes.add_patch(Rectangle((start - 0.5, edge), length, thickness, **style))
        if start:
            axes.axhline(start - 0.5, color="white", linewidth=0.8)
            axes.axvline(start - 0.5, color="white", linewidth=0.8)
        start += length
    axes.legend(handles=bars, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=7, frameon=False)
