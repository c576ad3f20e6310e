"""Where a model looked, and which training images it found alike: for photographs that may be shown."""

import numpy as np
from scipy.special import expit

from siglip_med.metrics import Predictions
from siglip_med.report.inputs import Explanation, ReportInputs
from siglip_med.report.page import NOT_DEFINED, Figure, Section, Table
from siglip_med.report.plots.photographs import explanation_figure
from siglip_med.report.plots.style import to_png

READING = (
    "Relevance is read from the attentions of the vision tower; occlusion is how far the score falls where a square is "
    "hidden. Both are of the first answer against the mean of all conditions, and each is colored up to its own "
    "largest value. They show what the model uses, not what is ill; where they disagree, believe neither."
)
_LABEL = "The last map of a row is the relevance for the primary label, in the same way."
MOST = 12
"""Mistakes that are shown."""


def first_answers(test: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``[N]`` first answers, ``[N]`` how sure they are in [0, 1], and ``[N]`` whether a label lists them."""
    first, everyone = test.first, np.arange(len(test))
    return first, expit(test.logits[everyone, first].astype(np.float64)), test.positive[everyone, first]


def surest(test: Predictions, right: bool) -> tuple[tuple[int, int, float], ...]:
    """Row, answer and confidence of the `MOST` surest first answers among the right or the wrong ones."""
    first, sure, listed = first_answers(test)
    rows = np.flatnonzero(listed == right)
    rows = rows[np.argsort(-sure[rows], kind="stable")][:MOST]
    return tuple((int(row), int(first[row]), float(sure[row])) for row in rows)


def explanation_parts(found: Explanation, name: str, answer: str) -> tuple[Figure, tuple[Table, ...]]:
    """The drawing of one explanation, and the table of its training images."""
    pictures = [(one.thumbnail, f"{one.cosine:.2f} {', '.join(one.conditions)}") for one in found.near]
    below = " Below: the nearest training images." if any(one.thumbnail for one in found.near) else ""
    figure = Figure(
        name,
        to_png(explanation_figure(found.photograph, found.maps, pictures)),
        f"The photograph, with {' and '.join(found.maps)}.",
        f"{answer}. Above: the photograph, {', '.join(found.maps)}.{below}",
        640,
    )
    rows = tuple((one.case, ", ".join(one.conditions), str(one.row), f"{one.cosine:.3f}") for one in found.near)
    columns = ("case", "labels", "row", "cosine")
    return figure, (Table("Nearest training images", columns, rows, 2),) if rows else ()


def mistakes_section(inputs: ReportInputs) -> Section:
    """Where the model looked in each of its surest mistakes, and what of the training images it took them for."""
    test = inputs.test
    first, sure, _ = first_answers(test)
    figures, rows, data = [], [], []
    for number, found in enumerate(inputs.explanations, start=1):
        image, answer = str(test.frame["image"].iloc[found.row]), test.conditions[first[found.row]]
        label = test.conditions[test.primary[found.row]]
        confident = f"{answer} ({sure[found.row]:.0%})"
        figure, _ = explanation_parts(found, f"mistake_{number:02d}", f"{confident}, primary label {label}")
        figures.append(figure)
        near = "; ".join(f"{', '.join(one.conditions) or 'no condition'} ({one.cosine:.2f})" for one in found.near)
        rows.append((str(number), image, confident, label, near or NOT_DEFINED))
        nearest = [
            {"row": one.row, "case": one.case, "labels": one.conditions, "cosine": one.cosine} for one in found.near
        ]
        data.append({"image": image, "answer": answer, "label": label, "nearest": nearest})
    columns = ("", "image", "answer", "primary label", "labels of the nearest training images (cosine)")
    return Section(
        key="mistakes",
        title="Where it looked when it was surely wrong",
        paragraphs=(READING, _LABEL, *inputs.explanation_notes) if figures else inputs.explanation_notes,
        tables=(Table("The surest mistakes, in the order of the drawings", columns, tuple(rows), 5),) if rows else (),
        figures=tuple(figures),
        data={"mistakes": data},
    )
