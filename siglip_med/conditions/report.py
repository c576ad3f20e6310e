"""Tables about the geometry, as text for a terminal or a Markdown page."""

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple, get_args

import numpy as np

from siglip_med.conditions.condition import Condition, ConditionSet
from siglip_med.conditions.curated import Triplet, known_conditions, read_triplets
from siglip_med.conditions.geometry import Geometry, Measure, dissimilarity
from siglip_med.conditions.load import load_conditions

SATISFIED, TIED, VIOLATED = "satisfied", "tied", "violated"
COMPARED: tuple[Geometry, ...] = ("icd", "coarse", "blend")


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


def tree_order(conditions: ConditionSet) -> list[int]:
    """Positions of the conditions in the order of the tree: chapters by number, then codes, then names."""
    keys = [(int(condition.path[0]), condition.path[1:], condition.name) for condition in conditions]
    return sorted(range(len(conditions)), key=keys.__getitem__)


def tree_text(conditions: ConditionSet) -> str:
    """The tree of the conditions, one indented line a chapter, block, category and condition."""
    lines: list[str] = []
    above: tuple[str, ...] = ()
    for position in tree_order(conditions):
        condition = conditions.conditions[position]
        headings = (condition.chapter, condition.block, condition.path[2])
        for depth, (heading, before) in enumerate(zip_longest(headings, above)):
            if heading != before:
                lines.append("  " * depth + heading)
        above = headings
        lines.append("      " + _leaf_text(condition))
    return "\n".join(lines)


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


def _leaf_text(condition: Condition) -> str:
    title = "" if condition.title.casefold() == condition.name.casefold() else f" ({condition.title})"
    return f"{condition.code}  {condition.name}{title}" + (f" [{condition.group}]" if condition.group else "")


def _counts(verdicts: Sequence[Verdict]) -> str:
    counts = Counter(verdict.outcome for verdict in verdicts)
    return " / ".join(str(counts[outcome]) for outcome in (SATISFIED, TIED, VIOLATED))


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))
