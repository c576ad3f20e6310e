"""How the run went: loss terms, coefficients and validation metrics by step."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from siglip_med.metrics import metric_label, names_by
from siglip_med.report.plots.style import MUTED, PALETTE, new_figure, styled


def _validation(*charts: str) -> tuple[str, ...]:
    return tuple(f"val/{name}" for chart in charts for name in names_by("chart")[chart])


PANELS: dict[str, tuple[str, ...]] = {
    "total loss": ("loss/",),
    "terms, before their coefficients": ("loss_raw/",),
    "terms, as they are added": ("loss_weighted/",),
    "coefficients": ("coefficient/",),
    "validation: R@K": _validation("R@K", "macro R@K"),
    "validation: ranking": _validation("ranking"),
    "validation: ICD distance": _validation("ICD distance"),
}
"""Title of a panel -> prefixes of the tags that it shows."""
_WINDOW = 25
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (2, 2)), (0, (1, 3)))


def curve_panels(curves: pd.DataFrame) -> dict[str, list[str]]:
    """The panels that have something to show -> their tags; ``curves`` has columns ``tag``, ``step``, ``value``."""
    tags = sorted(set(curves["tag"]))
    found = {title: [tag for tag in tags if tag.startswith(prefixes)] for title, prefixes in PANELS.items()}
    return {title: names for title, names in found.items() if names}


@styled
def curves_figure(curves: pd.DataFrame) -> Figure:
    """Small multiples; dense curves are drawn thin, with their running median on top."""
    panels = curve_panels(curves)
    rows = (len(panels) + 1) // 2
    figure = new_figure(10, 2.9 * rows)
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, (title, tags) in zip(grid, panels.items(), strict=False):
        _panel(axes, curves, title, tags)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return figure


def _panel(axes: Axes, curves: pd.DataFrame, title: str, tags: Sequence[str]) -> None:
    for position, tag in enumerate(tags):
        curve = curves[curves["tag"] == tag].sort_values("step")
        kind, name = tag.split("/", 1)
        label = metric_label(name) if kind == "val" else name.replace("_", " ")
        # coefficients often coincide: dashes let the line below show
        dashes = _DASHES[position % len(_DASHES)] if kind == "coefficient" or position >= len(PALETTE) else "-"
        color, values = PALETTE[position % len(PALETTE)], curve["value"]
        if kind.startswith("loss") and len(curve) > 4 * _WINDOW:
            axes.plot(curve["step"], values, color=color, linewidth=0.5, alpha=0.25)
            values = values.rolling(_WINDOW, center=True, min_periods=1).median()
        marker = "o" if len(curve) < 12 else None
        axes.plot(curve["step"], values, color=color, linewidth=1.6, linestyle=dashes, label=label, marker=marker, ms=3)
    axes.set_title(title)
    axes.set_xlabel("optimizer step", color=MUTED)
    axes.grid(visible=True, axis="y")
    axes.margins(x=0.02)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=2.2, borderaxespad=0.2)
