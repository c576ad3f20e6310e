"""The tree of the conditions."""

import numpy as np

from siglip_med.conditions import dissimilarity, known_conditions, load_conditions
from siglip_med.conditions.tree import tree_order, tree_text

Catalog = load_conditions(known_conditions())


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
