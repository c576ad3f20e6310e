"""A map of the images: the embeddings in two dimensions, colored by chapter."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from siglip_med.report.plots.order import chapter_label
from siglip_med.report.plots.style import GRID, INK, MARKERS, PALETTE, new_figure, shorten, styled

MAP_MINIMUM = 5
_LABELED, _CHAPTERS, _OTHERS = 24, 20, "other chapters"


def project(embeddings: np.ndarray, seed: int) -> np.ndarray:
    """Two dimensions in which neighbors stay neighbors, by t-SNE.

    Args:
        embeddings: ``[N, E]``, N at least `MAP_MINIMUM`; compared by cosine.
        seed: the same seed gives the same map on the same machine.

    Returns:
        ``[N, 2]``.

    Source: van der Maaten & Hinton 2008, JMLR 9; `sklearn.manifold.TSNE`.
    """
    from sklearn.manifold import TSNE  # slow to import

    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=seed)
    return np.asarray(tsne.fit_transform(embeddings), dtype=np.float64)


@styled
def embedding_figure(points: np.ndarray, primary: np.ndarray, names: Sequence[str], chapters: Sequence[str]) -> Figure:
    """The map ``[N, 2]``; the most common conditions are named at the median of their images, where they fit."""
    figure = new_figure(9.4, 6.6)
    axes = figure.add_subplot()
    of_image = np.asarray(chapters, dtype=str)[primary]
    chapter_names, counts = np.unique(of_image, return_counts=True)
    common = chapter_names[np.argsort(-counts, kind="stable")].tolist()
    if len(common) > _CHAPTERS + 1:
        of_image = np.where(np.isin(of_image, common[:_CHAPTERS]), of_image, _OTHERS)
        common = [*common[:_CHAPTERS], _OTHERS]
    for position, chapter in enumerate(common):
        mask = of_image == chapter
        color, marker = PALETTE[position % len(PALETTE)], MARKERS[(position + position // len(PALETTE)) % len(MARKERS)]
        color = GRID if chapter == _OTHERS else color
        label = f"{shorten(chapter_label(str(chapter)), 44)}  {mask.sum()}"
        size = 14 if len(points) > 1500 else 24
        axes.scatter(
            points[mask, 0], points[mask, 1], s=size, color=color, marker=marker, alpha=0.75, linewidths=0.3,
            edgecolors="white", label=label,
        )  # fmt: skip
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.005), ncols=2, title="chapter  images", alignment="left")
    axes.margins(0.04)
    figure.canvas.draw()
    taken: list[Bbox] = []
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    images = np.bincount(primary, minlength=len(names))
    for condition in np.argsort(-images, kind="stable")[:_LABELED]:
        if images[condition] < 2:
            continue
        x, y = np.median(points[primary == condition], axis=0)
        text = axes.text(
            x, y, shorten(names[condition], 26), ha="center", va="center", fontsize=7, color=INK,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        )  # fmt: skip
        box = text.get_window_extent(renderer).expanded(1.05, 1.3)
        if any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)
    return figure
