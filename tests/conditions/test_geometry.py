"""D against naive loops, SciPy, and what a coding clerk and a dermatologist agree on."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import pdist, squareform

from siglip_med.conditions import ConditionSet, dissimilarity, known_conditions, load_conditions
from siglip_med.conditions.codes import read_code_book
from siglip_med.conditions.condition import Condition
from siglip_med.conditions.curated import coarse_groups
from siglip_med.conditions.geometry import GEOMETRIES, MEASURES
from siglip_med.core.errors import UserError

Catalog = load_conditions(known_conditions())
INDEX = {name: position for position, name in enumerate(Catalog.names)}
LEAVES = [code for code in read_code_book().codes.values() if code.leaf]


def from_codes(codes, groups=None):
    """Conditions of given codes, named by position."""
    book = read_code_book()
    return ConditionSet(
        tuple(
            Condition(
                name=f"condition {position}",
                code=code.code,
                title=code.title,
                chapter=book.chapter(code),
                block=book.block(code),
                path=code.path,
                group=groups[position] if groups else "",
                phrase=f"condition {position}",
                description="",
            )
            for position, code in enumerate(codes)
        )
    )


code_lists = st.lists(st.sampled_from(LEAVES[::7]) | st.sampled_from(LEAVES[:60]), min_size=2, max_size=12)


def naive(measure, conditions):
    """The measures pair by pair, on explicit lists of ancestors from the root to the condition."""
    count = len(conditions)
    matrix = np.zeros((count, count))
    for i, a in enumerate(conditions):
        for j, b in enumerate(conditions):
            if i == j:
                continue
            up_a, up_b = ["root", *a.path, f"leaf {i}"], ["root", *b.path, f"leaf {j}"]
            common = 0
            while up_a[common] == up_b[common]:
                common += 1
            lowest = common - 1  # depth of the lowest common ancestor
            if measure == "level":
                level = 0
                level += a.chapter == b.chapter
                level += level == 1 and a.path[1] == b.path[1]
                level += level == 2 and a.code[:3] == b.code[:3]
                level += level == 3 and a.code == b.code
                matrix[i, j] = {0: 1.0, 1: 0.8, 2: 0.6, 3: 0.4, 4: 0.2}[level]
            elif measure == "wu_palmer":
                matrix[i, j] = 1 - 2 * lowest / (len(up_a) - 1 + len(up_b) - 1)
            elif measure == "path":
                matrix[i, j] = (len(up_a) - 1 - lowest + len(up_b) - 1 - lowest) / 16
            else:
                one, two = a.code.replace(".", ""), b.code.replace(".", "")
                same = next((k for k, (x, y) in enumerate(zip(one, two, strict=False)) if x != y), None)
                shorter = min(len(one), len(two))
                matrix[i, j] = 1 - (shorter if same is None else same) / (shorter + 1)
    return matrix


@pytest.mark.parametrize("measure", MEASURES)
@settings(max_examples=40, deadline=None)
@given(codes=code_lists)
def test_measures_match_naive_loops(measure, codes):
    conditions = from_codes(codes)
    np.testing.assert_allclose(dissimilarity(conditions, "icd", measure), naive(measure, conditions), atol=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_match_naive_loops_on_the_catalog(measure):
    np.testing.assert_allclose(dissimilarity(Catalog, "icd", measure), naive(measure, Catalog), atol=1e-12)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("measure", MEASURES)
@settings(max_examples=20, deadline=None)
@given(codes=code_lists, seed=st.integers(0, 99))
def test_d_is_symmetric_bounded_and_zero_on_the_diagonal_only(geometry, measure, codes, seed):
    random = np.random.default_rng(seed)
    groups = random.choice(coarse_groups(), size=len(codes)).tolist()
    labels = random.integers(0, 2, size=(5, len(codes)))
    weights = {"icd": 1, "coarse": 0.5, "colisting": 3} if geometry == "blend" else None
    matrix = dissimilarity(from_codes(codes, groups), geometry, measure, labels, weights)
    assert matrix.dtype == np.float64
    assert (matrix == matrix.T).all()
    assert (np.diagonal(matrix) == 0).all()
    off = matrix[~np.eye(len(codes), dtype=bool)]
    assert off.min() > 0
    assert off.max() <= 1


@settings(max_examples=60, deadline=None)
@given(codes=code_lists)
def test_default_is_exactly_ultrametric_with_positive_definite_similarity(codes):
    matrix = dissimilarity(from_codes(codes))
    for i in range(len(codes)):
        for j in range(len(codes)):
            for k in range(len(codes)):
                assert matrix[i, j] <= max(matrix[i, k], matrix[k, j])
    assert np.linalg.eigvalsh(1 - matrix)[0] > 0.2 - 1e-9


def test_catalog_is_its_own_cophenetic_distance_with_eigenvalues_from_a_fifth():
    condensed = squareform(dissimilarity(Catalog))
    np.testing.assert_array_equal(cophenet(linkage(condensed, "single")), condensed)
    assert np.linalg.eigvalsh(1 - dissimilarity(Catalog))[0] == pytest.approx(0.2)


def test_conditions_that_share_a_code_are_a_fifth_apart():
    assert dissimilarity(Catalog)[INDEX["Petechiae"], INDEX["O/E - ecchymoses present"]] == 0.2
    pairs = [(i, j) for i in range(66) for j in range(i) if Catalog.codes[i] == Catalog.codes[j]]
    assert len(pairs) == 8
    assert {dissimilarity(Catalog)[i, j] for i, j in pairs} == {0.2}


def test_eczema_is_nearer_to_contact_dermatitis_than_to_psoriasis_than_to_melanoma():
    row = dissimilarity(Catalog)[INDEX["Eczema"]]
    contact = max(row[INDEX["Allergic Contact Dermatitis"]], row[INDEX["CD - Contact dermatitis"]])
    assert contact < row[INDEX["Psoriasis"]] < row[INDEX["Melanoma"]]


def test_d_follows_the_order_of_the_names():
    shuffled = np.random.default_rng(1).permutation(66)
    again = dissimilarity(load_conditions([Catalog.names[i] for i in shuffled]))
    np.testing.assert_array_equal(again, dissimilarity(Catalog)[np.ix_(shuffled, shuffled)])


def test_coarse_is_half_within_a_group():
    conditions = load_conditions(["Eczema", "Stasis Dermatitis", "Melanoma"])
    np.testing.assert_array_equal(dissimilarity(conditions, "coarse"), [[0, 0.5, 1], [0.5, 0, 1], [1, 1, 0]])


def test_coarse_needs_groups_and_names_the_condition_without():
    with pytest.raises(UserError, match="'condition 0' has no coarse group"):
        dissimilarity(from_codes(LEAVES[:2]), "coarse")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_colisting_matches_scipy(seed):
    random = np.random.default_rng(seed)
    labels = (random.random((30, 6)) < 0.4) * random.random((30, 6))
    matrix = dissimilarity(from_codes(LEAVES[:6]), "colisting", labels=labels)
    listed = squareform(pdist(labels.T > 0, "jaccard"))
    np.testing.assert_allclose(matrix, np.where(np.eye(6), 0, np.maximum(listed, 0.2)), atol=1e-12)


def test_colisting_of_conditions_without_images_is_one():
    labels = np.array([[1.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    np.testing.assert_array_equal(dissimilarity(from_codes(LEAVES[:3]), "colisting", labels=labels), 1 - np.eye(3))


def test_blend_is_the_weighted_mean():
    labels = np.random.default_rng(0).integers(0, 2, size=(40, 66))
    weights = {"icd": 2.0, "coarse": 1.0, "colisting": 1.0}
    expected = (
        0.5 * dissimilarity(Catalog, "icd", "path")
        + 0.25 * dissimilarity(Catalog, "coarse")
        + 0.25 * dissimilarity(Catalog, "colisting", labels=labels)
    )
    np.testing.assert_allclose(dissimilarity(Catalog, "blend", "path", labels, weights), expected)
    half = (dissimilarity(Catalog) + dissimilarity(Catalog, "coarse")) / 2
    np.testing.assert_allclose(dissimilarity(Catalog, "blend"), half)


@pytest.mark.parametrize(
    ("geometry", "labels", "weights", "message"),
    [
        ("colisting", None, None, "needs the labels of the training split"),
        ("colisting", np.ones((3, 2)), None, r"\(3, 2\).*66 conditions"),
        ("blend", None, {"icd": 1, "colisting": 1}, "needs the labels"),
        ("blend", None, {"icd": -1, "coarse": 2}, "icd=-1"),
        ("blend", None, {"blend": 1}, "blend=1"),
        ("blend", None, {"shape": 1}, "shape=1"),
        ("blend", None, {"icd": 0}, "sum to 0"),
        ("blend", None, {"icd": float("nan")}, "icd=nan"),
        ("icd", None, {"icd": 1}, "only geometry=blend"),
    ],
)
def test_wrong_labels_and_weights_are_named(geometry, labels, weights, message):
    with pytest.raises(UserError, match=message):
        dissimilarity(Catalog, geometry, labels=labels, weights=weights)


def test_unknown_geometry_or_measure():
    with pytest.raises(ValueError, match="geometry='shape'"):
        dissimilarity(Catalog, "shape")
    with pytest.raises(ValueError, match="measure='lin'"):
        dissimilarity(Catalog, measure="lin")


def test_no_heavy_library_is_imported_to_get_d():
    program = (
        "import sys; from siglip_med.conditions import *; c = load_conditions(known_conditions()); "
        "dissimilarity(c); training_prompts(c); "
        "print([m for m in ('simple_icd_10_cm', 'torch', 'pandas', 'matplotlib', 'scipy') if m in sys.modules], "
        "__import__('siglip_med.conditions.codes').conditions.codes.read_code_book.cache_info().misses)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] 0"
