"""The triplets under each geometry, and the tables."""

from collections import Counter

import numpy as np
import pytest

from siglip_med.conditions import dissimilarity, known_conditions, load_conditions
from tools.geometry_tables import (
    Triplet,
    disagreements_table,
    is_ultrametric,
    judge,
    measures_table,
    read_triplets,
)

Catalog = load_conditions(known_conditions())


def outcomes(kind, geometry="icd", measure="level"):
    verdicts = judge(dissimilarity(Catalog, geometry, measure), Catalog.names, kind)
    counts = Counter(verdict.outcome for verdict in verdicts)
    return counts["satisfied"], counts["tied"], counts["violated"]


def test_sanity_triplets_hold_under_the_default():
    assert outcomes("A") == (54, 1, 0)
    assert outcomes("A", measure="prefix") == (49, 5, 1)


def test_known_disagreements_and_what_dermatological_groups_make_of_them():
    assert outcomes("B") == (0, 5, 19)
    assert outcomes("B", "coarse") == (16, 4, 4)
    assert outcomes("B", "blend") == (14, 0, 10)


def test_triplets_agree_with_the_recorded_results(shared):
    """Path lengths recorded from the library: edges between codes over 11; D counts two more, over 16."""
    import csv

    with (shared / "conditions" / "triplets.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    matrix = dissimilarity(Catalog, measure="path")
    for kind in "AB":
        recorded = [row for row in rows if row["set"] == kind]
        for verdict, row in zip(judge(matrix, Catalog.names, kind), recorded, strict=True):
            assert verdict.triplet == Triplet(kind, row["basis"], row["anchor"], row["closer"], row["farther"])
            assert verdict.closer == pytest.approx((round(float(row["path_d_closer"]) * 11) + 2) / 16)
            assert verdict.farther == pytest.approx((round(float(row["path_d_farther"]) * 11) + 2) / 16)
            assert verdict.outcome == row["path_result"]


def test_tables_have_a_row_for_everything():
    disagreements = disagreements_table().split("\n")
    assert len(disagreements) == 2 + 24 + 1
    assert disagreements[-1].endswith("| 0 / 5 / 19 | 16 / 4 / 4 | 14 / 0 / 10 |")
    assert "| Actinic Keratosis | SCC/SCCIS | Photodermatitis | VE | 1.00 / 0.60 violated |" in disagreements[9]
    measures = measures_table().split("\n")
    assert measures[2] == "| icd, level | 54 / 1 / 0 | 0 / 5 / 19 | yes | 0.200 | 5 | 1.00 |"
    assert len(measures) == 2 + 6


def test_the_page_holds_the_tables_as_the_commands_print_them(request):
    page = (request.config.rootpath / "docs" / "geometry.md").read_text(encoding="utf-8")
    assert disagreements_table() in page
    assert measures_table() in page


def test_is_ultrametric_tells_apart():
    assert is_ultrametric(np.array([[0, 1, 1], [1, 0, 0.5], [1, 0.5, 0]]))
    assert not is_ultrametric(np.array([[0, 1, 0.7], [1, 0, 0.5], [0.7, 0.5, 0]]))


def test_triplets_name_catalog_conditions():
    triplets = read_triplets()
    assert [sum(t.kind == kind for t in triplets) for kind in "AB"] == [55, 24]
    assert {name for t in triplets for name in (t.anchor, t.closer, t.farther)} <= set(known_conditions())
