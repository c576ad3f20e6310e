import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP, RetrievalMRR, RetrievalPrecision

from siglip_med.metrics.ranking import (
    average_precision,
    best_rank,
    condition_order,
    condition_ranks,
    ndcg,
    text_to_image,
)
from tests.metrics.simulated import make_predictions


@pytest.fixture
def predictions():
    return make_predictions(seed=3)


def _flat(scores, relevant):
    """Rows as queries, the way torchmetrics wants them."""
    query = torch.arange(len(scores))[:, None].expand(scores.shape).reshape(-1)
    return torch.tensor(scores).sigmoid().reshape(-1), torch.tensor(relevant).reshape(-1), query


def test_ranks_against_torchmetrics(predictions):
    ranks = condition_ranks(condition_order(predictions.logits, predictions.positive))
    first = best_rank(ranks, predictions.positive)
    scores, relevant, query = _flat(predictions.logits, predictions.positive)
    for k in (1, 5):
        assert (first <= k).mean() == pytest.approx(float(RetrievalHitRate(top_k=k)(scores, relevant, indexes=query)))
    assert (1 / first).mean() == pytest.approx(float(RetrievalMRR()(scores, relevant, indexes=query)), rel=1e-5)


def test_average_precision_against_scikit_learn_and_torchmetrics(predictions):
    value = average_precision(condition_order(predictions.logits, predictions.positive), predictions.positive)
    assert value.mean() == pytest.approx(
        label_ranking_average_precision_score(predictions.positive, predictions.logits), rel=1e-9
    )
    scores, relevant, query = _flat(predictions.logits, predictions.positive)
    assert value.mean() == pytest.approx(float(RetrievalMAP()(scores, relevant, indexes=query)), rel=1e-5)


def test_ndcg_with_label_weights_against_scikit_learn(predictions):
    value = ndcg(condition_order(predictions.logits, predictions.positive), predictions.labels)
    each = [
        ndcg_score(predictions.labels[row : row + 1], predictions.logits[row : row + 1], ignore_ties=True)
        for row in range(len(predictions))
    ]
    np.testing.assert_allclose(value, each, rtol=1e-6)


def test_text_to_image_against_torchmetrics(predictions):
    result = text_to_image(predictions.logits, predictions.positive)
    asked = predictions.positive.any(axis=0)
    scores, relevant, query = _flat(predictions.logits.T[asked], predictions.positive.T[asked])
    for k in (1, 5, 10):
        hit = RetrievalHitRate(top_k=k)(scores, relevant, indexes=query)
        precision = RetrievalPrecision(top_k=k)(scores, relevant, indexes=query)
        assert result[f"t2i_r_at_{k}"] == pytest.approx(float(hit))
        assert result[f"t2i_precision_at_{k}"] == pytest.approx(float(precision))


def test_text_to_image_leaves_out_conditions_without_images():
    logits, positive = np.array([[1.0, 0.0, 5.0], [0.0, 1.0, 6.0]]), np.array([[1, 0, 0], [0, 1, 0]], dtype=bool)
    result = text_to_image(logits, positive, ks=(1,))
    assert result == {"t2i_conditions": 2.0, "t2i_r_at_1": 1.0, "t2i_precision_at_1": 1.0}
    assert np.isnan(text_to_image(logits, np.zeros_like(positive), ks=(1,))["t2i_r_at_1"])


def test_a_collapsed_model_earns_nothing():
    positive = np.array([[True, False, False, True], [False, True, False, False]])
    first = best_rank(condition_ranks(condition_order(np.zeros((2, 4)), positive)), positive)
    assert first.tolist() == [3, 4]


@given(
    arrays(np.float32, (5, 7), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])),
    arrays(np.bool_, (5, 7)),
)
def test_order_sorts_by_score_and_puts_unlisted_first_among_equals(logits, positive):
    order = condition_order(logits, positive)
    ranks = condition_ranks(order)
    for row in range(5):
        assert sorted(order[row]) == list(range(7))
        for better, worse in zip(order[row], order[row][1:], strict=False):
            assert logits[row, better] >= logits[row, worse]
            if logits[row, better] == logits[row, worse]:
                assert positive[row, better] <= positive[row, worse]
        assert [order[row][rank - 1] for rank in ranks[row]] == list(range(7))
