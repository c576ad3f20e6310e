"""How far off the mistakes are in the ICD tree, and whether the embedding has learnt it."""

from itertools import pairwise

import numpy as np

from siglip_med.metrics import Predictions, label_distance, table_label
from siglip_med.report.evidence import CRM, RUN, ZERO_SHOT, Evidence
from siglip_med.report.page import Figure, Section, Table, number, percent, with_range
from siglip_med.report.plots.matrices import distance_figure
from siglip_med.report.plots.order import chapters_of, icd_order
from siglip_med.report.plots.style import to_png

_RERANKED = ("r_at_1", "r_at_5", "icd_distance_all", "icd_distance_mistakes", "icd_distance_top5", "hops")
_MOST_LEVELS = 8


def first_distances(predictions: Predictions) -> np.ndarray:
    """``[N]`` ICD distance from the first prediction to the nearest positive condition; 0 where it is positive."""
    distance = label_distance(predictions.positive, predictions.dissimilarity)
    return distance[np.arange(len(predictions)), predictions.first]


def hierarchy_section(evidence: Evidence) -> Section:
    """Levels of the tree at which first predictions go wrong, CRM, and learned distances beside D."""
    zero_shot = {} if evidence.zero_shot is None else {ZERO_SHOT: evidence.zero_shot}
    series = {RUN: evidence.test, **zero_shot, CRM: evidence.reranked}
    distances = {name: first_distances(predictions) for name, predictions in series.items()}
    labels, shares = _level_shares(distances)
    names = list(series)
    levels = tuple((label, *(percent(shares[name][i]) for name in names)) for i, label in enumerate(labels))
    reranked = evidence.settings.resampling.intervals(evidence.reranked, _RERANKED)
    beside = tuple(
        (table_label(m, len(evidence.test.conditions)), with_range(evidence.intervals[m]), with_range(reranked[m]))
        for m in _RERANKED
    )
    spearman = [
        f"{name} {number(evidence.values[name]['spearman_text_d'], 2)} (texts), "
        f"{number(evidence.values[name]['spearman_image_d'], 2)} (images)"
        for name in (ZERO_SHOT, RUN)
        if name in evidence.values
    ]
    return Section(
        key="hierarchy",
        title="Mistakes in the ICD tree",
        paragraphs=(
            "D is 0 for the condition itself and grows with the height of the lowest common ancestor in "
            "ICD-10-CM: 0.2 same code, 0.4 same category, 0.6 same block, 0.8 same chapter, 1 nothing shared "
            "(unless the run chose another geometry). The distance of an answer is the one to the nearest "
            "positive condition.",
            f"Spearman correlation of embedding distance with D over all pairs of conditions: {'; '.join(spearman)}.",
        ),
        tables=(
            Table("First predictions by their distance", ("distance", *names), levels),
            Table("Re-ranking by expected distance, without training", ("", RUN, CRM), beside),
        ),
        figures=(_matrices(evidence),),
        data={
            "first_prediction_distance": {name: float(d.mean()) for name, d in distances.items()},
            "levels": dict(zip(labels, np.array([shares[name] for name in names]).T.tolist(), strict=True)),
            "level_series": names,
        },
    )


def _level_shares(distances: dict[str, np.ndarray]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Share of images at each distance; a geometry with many distances is cut into fifths."""
    rounded = {name: np.round(values, 6) for name, values in distances.items()}
    levels = np.unique(np.concatenate([*rounded.values(), np.zeros(1)]))
    if len(levels) <= _MOST_LEVELS:
        labels = [f"{level:g}{' (positive)' if level == 0 else ''}" for level in levels]
        shares = {name: np.array([(values == level).mean() for level in levels]) for name, values in rounded.items()}
        return labels, shares
    edges = np.linspace(0, max(1.0, float(levels.max())), 6)
    labels = ["0 (positive)", *(f"up to {edge:g}" for edge in edges[1:])]
    inside = list(pairwise(edges))
    return labels, {
        name: np.array([(values == 0).mean(), *(((values > low) & (values <= high)).mean() for low, high in inside)])
        for name, values in rounded.items()
    }


def _matrices(evidence: Evidence) -> Figure:
    test, order = evidence.test, icd_order(evidence.test)
    chapters = chapters_of(test)
    learned = {ZERO_SHOT: evidence.zero_shot, RUN: test}
    matrices = {"D, from the codes": test.dissimilarity}
    for name, p in learned.items():
        if p is not None:
            matrices[f"texts, {name}"] = 1.0 - p.text_embeddings @ p.text_embeddings.T
    figure = distance_figure(
        {title: matrix[np.ix_(order, order)] for title, matrix in matrices.items()},
        [test.conditions[c] for c in order],
        [chapters[c] for c in order],
    )
    return Figure(
        "distances",
        to_png(figure),
        "D and the learned distances between the texts of the conditions, side by side.",
        "Cosine distances between the conditions' texts beside D, in ICD order; each panel has its own scale. "
        "A text side that has learnt the tree shows the blocks of D.",
        320 * len(matrices),
    )
