"""Contact sheets of photographs, for a report that its reader asked to show them."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from siglip_med.core.errors import UserError
from siglip_med.report.plots.style import new_figure, shorten, styled

_COLUMNS, _SIDE = 6, 160


@styled
def contact_sheet(root: Path, rows: list[tuple[str, str, str]]) -> Figure:
    """Thumbnails of (image below ``root``, first line, second line).

    Raises:
        UserError: an image is missing or cannot be read.
    """
    lines = -(-len(rows) // _COLUMNS)
    figure = new_figure(1.9 * _COLUMNS, 2.45 * lines)
    grid = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (name, first, second) in zip(grid, rows, strict=False):
        axes.imshow(_thumbnail(root / name))
        axes.set_title(f"{shorten(first, 26)}\n{shorten(second, 26)}", fontsize=7, fontweight="normal", loc="left")
    return figure


def _thumbnail(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
            small.thumbnail((_SIDE, _SIDE))
            return np.asarray(small)
    except FileNotFoundError as error:
        raise UserError(f"{path}: the photograph is not there; give its folder as report.image_root=…") from error
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); repair it or set report.images=false") from error
