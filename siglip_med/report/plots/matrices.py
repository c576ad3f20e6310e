"""Square figures with a row and a column per condition: confusion, and distances."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from siglip_med.report.plots.order import Span, chapter_label, chapter_spans
from siglip_med.report.plots.style import ACCENT, DISTANCE, INK, MUTED, SEQUENTIAL, new_figure, shorten, styled

_ANNOTATED = 24
NAMED = 100
"""Up to so many conditions a confusion matrix has their names beside it; more could not be read."""


@styled
def confusion_figure(matrix: np.ndarray, names: Sequence[str], chapters: Sequence[str]) -> Figure:
    """Share of each primary condition's images (row) by first prediction (column), from ``[C, C]`` counts."""
    size, total = len(names), matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    side = max(6.0, 3.2 + 0.165 * min(size, NAMED))
    figure = new_figure(side, side - 0.8)
    axes = figure.add_subplot()
    axes.set_facecolor("#e3e6ea")
    shown = np.ma.masked_where(np.broadcast_to(total == 0, matrix.shape), share)
    image = axes.imshow(shown, cmap=SEQUENTIAL, norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="nearest")
    count = [f"{shorten(name, 34)}  {int(n)}" for name, n in zip(names, total[:, 0], strict=True)]
    _condition_axes(axes, *((count, names) if size <= NAMED else (None, None)))
    axes.set_ylabel("primary condition (images)")
    axes.set_xlabel("first prediction (any positive condition counts as the primary one)")
    _frame_chapters(axes, chapter_spans(chapters), color=ACCENT, smallest=0.025)
    if size <= _ANNOTATED:
        for row, column in np.argwhere(matrix > 0):
            color = "white" if share[row, column] > 0.45 else INK
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=7, color=color)
    bar = figure.colorbar(image, ax=axes, shrink=0.45, aspect=30, pad=0.012, ticks=[0, 0.05, 0.2, 0.5, 1])
    bar.set_label("share of the row's images")
    bar.outline.set_visible(False)
    return figure


@styled
def distance_figure(matrices: dict[str, np.ndarray], names: Sequence[str], chapters: Sequence[str]) -> Figure:
    """``[C, C]`` distances between conditions side by side, each on the scale of its off-diagonal entries."""
    size, count = len(names), len(matrices)
    side = 3.9
    figure = new_figure(side * count + 1.6, side + (1.7 if size <= _ANNOTATED else 0.6))
    panels = figure.subplots(1, count, squeeze=False)[0]
    off_diagonal = ~np.eye(size, dtype=bool)
    for axes, (title, matrix) in zip(panels, matrices.items(), strict=True):
        values = matrix[off_diagonal]
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
        image = axes.imshow(matrix, cmap=DISTANCE, vmin=low, vmax=max(high, low + 1e-9), interpolation="nearest")
        axes.set_title(title, pad=16)
        labels = [shorten(name, 24) for name in names] if size <= _ANNOTATED else None
        _condition_axes(axes, labels if axes is panels[0] else None, labels)
        _frame_chapters(axes, chapter_spans(chapters), color="white", smallest=0.07)
        bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=28, pad=0.02)
        bar.outline.set_visible(False)
    return figure


def _condition_axes(axes: Axes, rows: Sequence[str] | None, columns: Sequence[str] | None) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    size = len(rows or columns or ())
    font = 8.0 if size <= 30 else 6.6
    axes.set_yticks(range(len(rows or ())), rows or [], fontsize=font)
    axes.set_xticks(range(len(columns or ())), [shorten(name, 28) for name in columns or ()], fontsize=font)
    axes.tick_params(axis="x", rotation=90)


def _frame_chapters(axes: Axes, spans: list[Span], color: str, smallest: float) -> None:
    """A square around each chapter on the diagonal; chapters with at least that share of the conditions are named."""
    for span in spans:
        low, high = span.start - 0.5, span.end - 0.5
        axes.plot([low, high, high, low, low], [low, low, high, high, low], color=color, linewidth=0.9)
        if span.end - span.start >= max(2, smallest * spans[-1].end):
            label = shorten(chapter_label(span.chapter, with_title=False), 12)
            axes.annotate(
                label, ((low + high) / 2, -0.5), xytext=(0, 4), textcoords="offset points", ha="center", va="bottom",
                fontsize=7, color=MUTED, annotation_clip=False,
            )  # fmt: skip
