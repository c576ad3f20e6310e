"""Photographs, for a report that its reader asked to show them; and where a model looks in one."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from siglip_med.core.errors import UserError
from siglip_med.data.images import thumbnail
from siglip_med.report.plots.style import new_figure, shorten, styled

_COLUMNS, _SIDE = 6, 160
_MAPS = 5


@styled
def contact_sheet(root: Path, rows: list[tuple[str, str, str]], bits: int = 16) -> Figure:
    """Thumbnails of (image below ``root``, first line, second line); a UserError for one that cannot be read.

    ``bits`` are in use of files with 16 bits per channel.
    """
    lines = -(-len(rows) // _COLUMNS)
    figure = new_figure(1.9 * _COLUMNS, 2.45 * lines)
    grid = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (name, first, second) in zip(grid, rows, strict=False):
        if not (root / name).is_file():
            raise UserError(f"{root / name}: the photograph is not there; give its folder as report.image_root=…")
        axes.imshow(thumbnail(root / name, _SIDE, bits))
        axes.set_title(f"{shorten(first, 26)}\n{shorten(second, 26)}", fontsize=7, fontweight="normal", loc="left")
    return figure


@styled
def explanation_figure(
    photograph: np.ndarray, maps: Mapping[str, np.ndarray], neighbours: Sequence[tuple[bytes | None, str]]
) -> Figure:
    """The photograph ``[H, W, 3]`` and its maps, each colored from 0 to its largest value; training images below."""
    shown = [(jpeg, line) for jpeg, line in neighbours if jpeg is not None][:_MAPS]
    lines = 2 if shown else 1
    figure = new_figure(1.9 * _MAPS, 2.3 * lines)
    grid = figure.subplots(lines, _MAPS, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    height, width = photograph.shape[:2]
    for axes, (title, values) in zip(grid[0], {"photograph": None, **maps}.items(), strict=False):
        axes.imshow(photograph)
        axes.set_title(shorten(title, 30), fontsize=7, fontweight="normal", loc="left")
        if values is not None:
            positive = np.maximum(values, 0)
            largest = float(positive.max()) or 1.0
            # the image's frame is kept, so that a cell lies over the pixels that it is of
            frame = (-0.5, width - 0.5, height - 0.5, -0.5)
            axes.imshow(positive / largest, cmap="inferno", alpha=0.55, extent=frame, interpolation="bicubic", vmin=0)
    for axes, (jpeg, line) in zip(grid[-1], shown, strict=False):
        axes.imshow(np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")))
        axes.set_title(shorten(line, 30), fontsize=7, fontweight="normal", loc="left")
    return figure
