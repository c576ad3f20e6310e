import dataclasses
from itertools import combinations, permutations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from siglip_med.core.errors import UserError
from siglip_med.metrics import Bootstrap, chance, crm, headline_metrics, label_frequency_predictions
from siglip_med.metrics.baselines import chance_hits, chance_intervals, chance_of_images, chance_predictions
from tests.metrics.simulated import make_predictions


@pytest.mark.parametrize("k", [1, 3, 5, 9])
def test_chance_recall_by_counting_every_list(k):
    positive = np.array([[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 1, 0], [1, 1, 1, 1, 1, 1]], dtype=bool)
    lists = list(combinations(range(6), min(k, 6)))
    expected = np.mean([np.mean([any(row[c] for c in chosen) for chosen in lists]) for row in positive])
    assert float(chance_hits(positive, k).mean()) == pytest.approx(expected)


def test_chance_is_what_random_orders_give():
    p = make_predictions(images=2000)
    drawn = headline_metrics(chance_predictions(p, seed=4))
    exact = chance(p)
    for k in (1, 5):
        assert drawn[f"r_at_{k}"] == pytest.approx(exact[f"r_at_{k}"], abs=0.035)
    assert exact["r_at_5_primary"] == pytest.approx(5 / 12, abs=0.01)
    assert exact["macro_auc"] == 0.5
    assert "ece" not in exact
    assert chance(p) == exact
    assert chance(p, seed=99)["mrr"] != exact["mrr"]


def test_a_random_order_of_images_by_every_order():
    """Of six images with one, two and six positives, all orders: the mean average precision, and the AUC."""
    orders = list(permutations(range(6)))
    for m in (1, 2, 6):
        precision = [average_precision_score(np.arange(6) < m, order) for order in orders]
        found = chance_of_images(np.array([[m]]), np.array([6]))
        assert found["t2i_map"][0] == pytest.approx(np.mean(precision), abs=1e-12)
        if m < 6:
            auc = [roc_auc_score(np.arange(6) < m, order) for order in orders]
            assert found["macro_auc"][0] == pytest.approx(np.mean(auc), abs=1e-12)
    assert np.isnan(chance_of_images(np.array([[0]]), np.array([6]))["t2i_map"][0])


def test_the_intervals_of_chance_are_those_of_random_orders():
    p = make_predictions(images=150)
    given = Bootstrap(repetitions=200)
    names = ["macro_auc", "mrr", "t2i_map", "r_at_1"]
    found = chance_intervals(p, names, given)
    whole, drawn = given._resampled([chance_predictions(p, draw) for draw in range(100)], names, given.seed)
    low, high = np.quantile(drawn.mean(axis=0), [0.025, 0.975], axis=1)
    assert list(found) == names
    for place, name in enumerate(names):
        assert found[name].estimate == pytest.approx(whole[place].mean(), abs=0.01), name
        assert found[name].low == pytest.approx(low[place], abs=0.02), name
        assert found[name].high == pytest.approx(high[place], abs=0.02), name


def test_an_interval_that_leaves_its_own_estimate_out_is_none():
    orders = [chance_predictions(make_predictions(images=150), draw) for draw in range(20)]
    found = Bootstrap(repetitions=200).intervals(orders, ["t2i_map"])["t2i_map"]  # images drawn twice raise a precision
    assert np.isfinite(found.estimate)
    assert np.isnan([found.low, found.high]).all()
    assert Bootstrap().interval(0.5, np.array([0.6, 0.7])).estimate == 0.5
    assert np.isnan(Bootstrap().interval(0.5, np.array([0.6, 0.7])).low)
    assert Bootstrap().interval(0.5, np.full(9, 0.5)).low == 0.5  # at its edge it is in


def test_label_frequency_always_ranks_the_five_most_common():
    p = make_predictions()
    counts = np.array([100, 90, 80, 70, 10, 10, 10, 5, 4, 3, 2, 1])  # the fifth place is a tie of three
    p = dataclasses.replace(p, train_counts=counts)
    common = np.argsort(-counts, kind="stable")[:5]
    metrics = headline_metrics(label_frequency_predictions(p))
    assert metrics["r_at_5"] == pytest.approx(p.positive[:, common].any(axis=1).mean())
    assert metrics["r_at_1"] == pytest.approx(p.positive[:, common[0]].mean())
    assert metrics["macro_auc"] == pytest.approx(0.5)


def test_label_frequency_confidence_is_the_share_of_the_training_labels():
    p = make_predictions()
    confidence = 1 / (1 + np.exp(-label_frequency_predictions(p).logits[0].astype(float)))
    np.testing.assert_allclose(confidence, (p.train_counts + 1) / (p.train_counts.sum() + 12), rtol=2e-4)


def test_label_frequency_needs_counts():
    p = dataclasses.replace(make_predictions(), train_counts=np.zeros(12))
    with pytest.raises(UserError, match="train_counts"):
        label_frequency_predictions(p)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_crm_is_the_expected_distance(temperature):
    p = make_predictions(images=20)
    result = crm(p, temperature)
    for row in range(20):
        weights = np.exp(p.logits[row].astype(float) / temperature)
        for c in range(12):
            expected = sum(weights[k] * p.dissimilarity[k, c] for k in range(12)) / weights.sum()
            assert -result.logits[row, c] == pytest.approx(expected, rel=1e-5)


def test_crm_brings_the_top_five_nearer():
    p = make_predictions(images=800, signal=1.0)
    assert headline_metrics(crm(p))["icd_distance_top5"] < headline_metrics(p)["icd_distance_top5"]


def test_baselines_are_judged_on_the_same_images():
    p = make_predictions()
    for baseline in (chance_predictions(p), crm(p), label_frequency_predictions(p)):
        assert baseline.frame is p.frame
        np.testing.assert_array_equal(baseline.labels, p.labels)
