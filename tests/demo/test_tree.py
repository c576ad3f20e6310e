"""The answers in the tree of ICD-10-CM."""

import numpy as np
import pytest

from siglip_med.conditions import dissimilarity, load_conditions
from siglip_med.demo.tree import place_in_icd

NAMES = ("Eczema", "Allergic Contact Dermatitis", "Psoriasis", "Melanoma", "Acute dermatitis, NOS")


@pytest.fixture(scope="module")
def known():
    return load_conditions(NAMES)


@pytest.fixture(scope="module")
def icd(known):
    return place_in_icd(known.names, known.codes, "x")


def test_places_and_distances_are_those_of_the_conditions_package(icd, known):
    for ours, theirs in zip(icd.conditions, known, strict=True):
        assert (ours.chapter, ours.block, ours.path, ours.title) == (
            theirs.chapter, theirs.block, theirs.path, theirs.title,
        )  # fmt: skip
    np.testing.assert_array_equal(icd.distance, dissimilarity(known))


def test_an_answer_says_the_lowest_branch_that_it_shares_with_the_first(icd):
    leaves = [icd.leaf(column, column + 1, 0) for column in range(5)]
    assert [(leaf.shared, round(leaf.distance, 1)) for leaf in leaves] == [
        ("first answer", 0.0),
        ("same block", 0.6),
        ("same chapter", 0.8),
        ("another chapter", 1.0),
        ("same code", 0.2),
    ]


def test_the_tree_holds_every_answer_once_below_its_own_branches(icd):
    tree = icd.tree((2, 0, 3, 4, 1))
    assert [branch.key for branch in tree] == ["XII", "II"]
    skin = tree[0]
    assert (skin.level, skin.title) == ("chapter", "Diseases of the skin and subcutaneous tissue (L00-L99)")
    assert [(block.level, block.key) for block in skin.branches] == [("block", "L40-L45"), ("block", "L20-L30")]
    dermatitis = skin.branches[1]
    assert [(branch.key, branch.title) for branch in dermatitis.branches] == [
        ("L30", "Other and unspecified dermatitis"),
        ("L23", "Allergic contact dermatitis"),
    ]
    (code,) = dermatitis.branches[0].branches
    assert (code.level, code.key) == ("code", "L30.9")
    assert [(leaf.rank, leaf.condition) for leaf in code.leaves] == [(2, "Eczema"), (4, "Acute dermatitis, NOS")]


def test_a_category_that_is_a_code_is_one_branch():
    (chapter,) = place_in_icd(["Vitiligo"], ["L80"], "x").tree((0,))
    ((code,),) = [block.branches for block in chapter.branches]
    assert (code.level, code.key, [leaf.condition for leaf in code.leaves]) == ("code", "L80", ["Vitiligo"])
