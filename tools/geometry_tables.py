"""The tables of docs/geometry.md, as Markdown: ``python -m tools.geometry_tables measures | disagreements``."""

import csv
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from siglip_med.conditions import dissimilarity, known_conditions, load_conditions
from siglip_med.conditions.geometry import Geometry, Measure

SATISFIED, TIED, VIOLATED = "satisfied", "tied", "violated"
COMPARED: tuple[Geometry, ...] = ("icd", "coarse", "blend")


class Triplet(NamedTuple):
    """``closer`` should be nearer to ``anchor`` than ``farther`` is.

    ``kind`` is A (a coding clerk and a dermatologist agree) or B (ICD-10-CM is known to disagree with dermatology);
    ``basis`` says what B rests on: V the looks, E the cause.
    """

    kind: str
    basis: str
    anchor: str
    closer: str
    farther: str


@cache
def read_triplets() -> tuple[Triplet, ...]:
    """The 55 A and 24 B triplets that a geometry of the catalog is judged by."""
    with Path(__file__).with_name("triplets.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            Triplet(row["set"], row["basis"], row["anchor"], row["closer"], row["farther"])
            for row in csv.DictReader(file)
        )


class Verdict(NamedTuple):
    """What a geometry makes of a triplet: the two distances, and satisfied, tied or violated."""

    triplet: Triplet
    closer: float
    farther: float
    outcome: str


def judge(matrix: np.ndarray, names: Sequence[str], kind: str) -> list[Verdict]:
    """Holds ``[C, C]`` D of the named conditions against the triplets of one kind (A or B)."""
    index = {name: position for position, name in enumerate(names)}
    verdicts = []
    for triplet in read_triplets():
        if triplet.kind == kind:
            row = matrix[index[triplet.anchor]]
            closer, farther = float(row[index[triplet.closer]]), float(row[index[triplet.farther]])
            tied = abs(closer - farther) < 1e-12
            outcome = TIED if tied else SATISFIED if closer < farther else VIOLATED
            verdicts.append(Verdict(triplet, closer, farther, outcome))
    return verdicts


def disagreements_table() -> str:
    """The 24 B triplets of the catalog under three geometries, as Markdown: d(closer), d(farther) and the outcome."""
    conditions = load_conditions(known_conditions())
    columns = {geometry: judge(dissimilarity(conditions, geometry), conditions.names, "B") for geometry in COMPARED}
    rows = [
        [triplet.anchor, triplet.closer, triplet.farther, triplet.basis]
        + [f"{cell.closer:.2f} / {cell.farther:.2f} {cell.outcome}" for cell in cells]
        for triplet, *cells in zip((v.triplet for v in columns["icd"]), *columns.values(), strict=True)
    ]
    totals = ["**satisfied / tied / violated**", "", "", "", *(_counts(column) for column in columns.values())]
    return _markdown(["anchor", "should be closer", "than", "basis", *columns], [*rows, totals])


def measures_table() -> str:
    """The measures and geometries side by side on the catalog, as Markdown."""
    from scipy.stats import spearmanr

    conditions = load_conditions(known_conditions())
    upper = np.triu_indices(len(conditions), 1)
    default = dissimilarity(conditions)
    kinds: list[tuple[str, np.ndarray]] = [
        *((f"icd, {measure}", dissimilarity(conditions, "icd", measure)) for measure in get_args(Measure)),
        ("coarse", dissimilarity(conditions, "coarse")),
        ("blend", dissimilarity(conditions, "blend")),
    ]
    rows = [
        [
            name,
            _counts(judge(matrix, conditions.names, "A")),
            _counts(judge(matrix, conditions.names, "B")),
            "yes" if is_ultrametric(matrix) else "no",
            f"{np.linalg.eigvalsh(1 - matrix)[0]:.3f}",
            str(len(np.unique(matrix[upper].round(9)))),
            f"{spearmanr(matrix[upper], default[upper]).statistic:.2f}",
        ]
        for name, matrix in kinds
    ]
    header = ["geometry", "A: satisfied / tied / violated", "B: satisfied / tied / violated", "ultrametric"]
    return _markdown([*header, "smallest eigenvalue of 1 − D", "distinct values", "Spearman with level"], rows)


def is_ultrametric(matrix: np.ndarray) -> bool:
    """Whether D[i, j] ≤ max(D[i, k], D[k, j]) for all i, j, k, to within rounding."""
    return all(bool((matrix <= np.maximum.outer(row, row) + 1e-12).all()) for row in matrix)


def _counts(verdicts: Sequence[Verdict]) -> str:
    counts = Counter(verdict.outcome for verdict in verdicts)
    return " / ".join(str(counts[outcome]) for outcome in (SATISFIED, TIED, VIOLATED))


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


if __name__ == "__main__":
    print({"measures": measures_table, "disagreements": disagreements_table}[sys.argv[1]]())
