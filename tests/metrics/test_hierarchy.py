import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, rankdata

from siglip_med.metrics.hierarchy import (
    hops,
    label_distance,
    same_ancestor,
    spearman_embedding_distance,
    spearman_image_prototypes,
)
from tests.metrics.simulated import make_predictions, tree_distance


def test_label_distance_is_the_minimum_over_labels():
    predictions = make_predictions(images=60)
    rng = np.random.default_rng(1)
    d = rng.random((12, 12))
    value = label_distance(predictions.positive, d)
    for row in range(60):
        labels = np.flatnonzero(predictions.labels[row])
        for condition in range(12):
            assert value[row, condition] == min(d[label, condition] for label in labels)


def test_nothing_listed_is_infinitely_far():
    assert np.isinf(label_distance(np.zeros((1, 4), dtype=bool), tree_distance(4))).all()


def test_same_ancestor_against_sets():
    predictions = make_predictions(images=60)
    value = same_ancestor(predictions.positive, predictions.blocks)
    for row in range(60):
        blocks = {predictions.blocks[label] for label in np.flatnonzero(predictions.labels[row])}
        assert value[row].tolist() == [block in blocks for block in predictions.blocks]


def test_spearman_is_pearson_of_the_ranks_of_all_pairs():
    rng = np.random.default_rng(0)
    embeddings, d = rng.standard_normal((9, 5)), tree_distance(9)
    cosine, reference = [], []
    for a in range(9):
        for b in range(a):
            norms = np.linalg.norm(embeddings[a]) * np.linalg.norm(embeddings[b])
            cosine.append(1 - embeddings[a] @ embeddings[b] / norms)
            reference.append(d[a, b])
    expected = np.corrcoef(rankdata(cosine), rankdata(reference))[0, 1]
    assert spearman_embedding_distance(embeddings, d) == pytest.approx(expected)
    assert np.sign(expected) == np.sign(kendalltau(cosine, reference).statistic)


def test_embeddings_built_from_d_reach_one():
    d = tree_distance(8)
    values, vectors = np.linalg.eigh(1.0 - d)
    assert spearman_embedding_distance(vectors * np.sqrt(values), d) == pytest.approx(1.0)


@pytest.mark.parametrize("embeddings", [np.ones((2, 3)), np.ones((6, 3)), np.ones((6, 0))])
def test_undefined_correlation_is_nan(embeddings):
    assert np.isnan(spearman_embedding_distance(embeddings, tree_distance(len(embeddings))))


def test_image_prototypes_are_means_of_the_conditions_that_occur():
    predictions = make_predictions(images=40)
    present = sorted(set(predictions.primary.tolist()))
    means = np.array([predictions.image_embeddings[predictions.primary == c].mean(axis=0) for c in present])
    d = predictions.dissimilarity[present][:, present]
    value = spearman_image_prototypes(predictions.image_embeddings, predictions.primary, predictions.dissimilarity)
    assert value == pytest.approx(spearman_embedding_distance(means, d))
    assert np.isnan(spearman_image_prototypes(np.empty((0, 8)), predictions.primary, predictions.dissimilarity))


@st.composite
def _ranked(draw):
    """Distances of some conditions, one of them 0, and an order of them."""
    levels = draw(st.lists(st.integers(0, 4), min_size=1, max_size=9))
    distance = np.array([[0.0, 1.0, *(0.2 * level for level in levels)]])
    return distance, np.array([draw(st.permutations(range(distance.shape[1])))])


@given(_ranked())
def test_hops_is_1_for_the_order_of_the_tree_0_for_its_reverse_and_between_for_others(ranked):
    distance, order = ranked
    best = np.argsort(distance, axis=1, kind="stable")
    assert hops(best, distance)[0] == pytest.approx(1)
    assert hops(best[:, ::-1], distance)[0] == pytest.approx(0)
    assert 0 <= hops(order, distance)[0] <= 1


@given(_ranked(), st.floats(0.1, 3))
def test_hops_asks_for_levels_and_not_for_distances(ranked, power):
    distance, order = ranked
    assert hops(order, distance**power)[0] == pytest.approx(hops(order, distance)[0], abs=1e-9)


def test_hops_minds_the_near_places_more_than_the_far_ones():
    distance = np.array([[0.0, 0.4, 0.7, 1.0]])
    swapped_first, swapped_last = np.array([[1, 0, 2, 3]]), np.array([[0, 1, 3, 2]])
    assert hops(swapped_first, distance) < hops(swapped_last, distance) < 1


def test_hops_is_undefined_where_every_condition_is_as_far_away():
    assert np.isnan(hops(np.array([[0, 1, 2]]), np.zeros((1, 3)))).all()
    assert hops(np.empty((0, 3), dtype=int), np.empty((0, 3))).shape == (0,)
