"""The triplets under each geometry, the tree, and the tables."""

from collections import Counter

import numpy as np
import pytest

from siglip_med.conditions import dissimilarity, known_conditions, load_conditions
from siglip_med.conditions.curated import Triplet
from siglip_med.conditions.report import (
    disagreements_table,
    is_ultrametric,
    judge,
    measures_table,
    tree_order,
    tree_text,
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


def test_tree_order_sorts_chapters_as_numbers():
    order = tree_order(Catalog)
    chapters = [int(Catalog.paths[position][0]) for position in order]
    assert chapters == sorted(chapters)
    assert sorted(order) == list(range(66))
    matrix = dissimilarity(Catalog)[np.ix_(order, order)]
    # in a tree's own order, distances from a leaf never fall again as one walks away from it
    assert all((np.diff(matrix[i, i:]) >= 0).all() for i in range(66))


def test_tree_text_shows_each_heading_once_above_its_codes():
    text = tree_text(load_conditions(["Melanoma", "Basal Cell Carcinoma", "SCC/SCCIS", "Vitiligo"])).split("\n")
    assert text == [
        "II - Neoplasms (C00-D49)",
        "  C43-C44 - Melanoma and other malignant neoplasms of skin",
        "    C43",
        "      C43.9  Melanoma (Malignant melanoma of skin, unspecified) [Skin Cancer]",
        "    C44",
        "      C44.91  Basal Cell Carcinoma (Basal cell carcinoma of skin, unspecified) [Skin Cancer]",
        "      C44.92  SCC/SCCIS (Squamous cell carcinoma of skin, unspecified) [Skin Cancer]",
        "XII - Diseases of the skin and subcutaneous tissue (L00-L99)",
        "  L80-L99 - Other disorders of the skin and subcutaneous tissue",
        "    L80",
        "      L80  Vitiligo [Pigmentary Disorders]",
    ]


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
