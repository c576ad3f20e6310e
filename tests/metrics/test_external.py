"""External numbers against naive loops and scikit-learn, and twin clinics whose difference is planted."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from siglip_med.core.errors import UserError
from siglip_med.metrics import Bootstrap, Predictions, external, headline_metrics
from siglip_med.metrics.calibration import BINS
from siglip_med.metrics.conformal import fit_conformal
from siglip_med.metrics.external import (
    EXTERNAL_METRICS,
    Yardstick,
    adjust_prior,
    compare_external,
    label_some,
    rank_own_labels,
)
from siglip_med.metrics.shift import BiasCorrected, em_prior, fit_bias_corrected
from tests.metrics.simulated import make_predictions

CONDITIONS = 8
TRAINED = 0.6 ** np.arange(CONDITIONS) / (0.6 ** np.arange(CONDITIONS)).sum()
ELSEWHERE = TRAINED[::-1]
FEW = Bootstrap(200)


def clinic(frequencies, images, seed, noise=0.0, spread=2.0):
    """A model that knows the training frequencies, on images that look the same everywhere but for ``noise``."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(CONDITIONS, images, p=frequencies)
    seen = spread * np.eye(CONDITIONS)[truth] + rng.standard_normal((images, CONDITIONS)) * (1.0 + noise)
    # log of a Gaussian's density at each condition's center, with the prior of training: the best answer there is
    logits = spread * seen - 0.5 * spread**2 + np.log(TRAINED)
    cases = [f"case {row // 2}" for row in range(images)]
    made = Predictions.of(logits, np.eye(CONDITIONS)[truth], cases=cases, train_counts=np.round(1000 * TRAINED))
    return replace(made, split="made")


def naive(predictions):
    """Metrics by loops over images and conditions."""
    found = {name: [] for name in EXTERNAL_METRICS}
    by_group = {}
    for logits, labels, primary in zip(predictions.logits, predictions.labels, predictions.primary, strict=True):
        order = sorted(range(len(logits)), key=lambda c: -logits[c])
        rank = min(place for place, c in enumerate(order, start=1) if labels[c] > 0)
        far = [min(predictions.dissimilarity[c, k] for k in np.flatnonzero(labels)) for c in order]
        found["r_at_1"].append(rank <= 1)
        found["r_at_5"].append(rank <= 5)
        found["mrr"].append(1 / rank)
        found["icd_distance_all"].append(far[0])
        found["icd_distance_top5"].append(np.mean(far[:5]))
        by_group.setdefault(primary, []).append(rank <= 1)
    found["macro_r_at_1"] = [np.mean(hits) for hits in by_group.values()]
    truth = predictions.labels > 0
    both = [c for c in range(truth.shape[1]) if 0 < truth[:, c].sum() < len(truth)]
    found["macro_auc"] = [roc_auc_score(truth[:, c], predictions.logits[:, c]) for c in both]
    pairs = [(1 / (1 + np.exp(-float(z))), t) for z, t in zip(predictions.logits.ravel(), truth.ravel(), strict=True)]
    bins = [[pair for pair in pairs if min(int(pair[0] * BINS), BINS - 1) == place] for place in range(BINS)]
    found["ece"] = [sum(abs(sum(t - p for p, t in one)) for one in bins) / len(pairs)]
    return {name: float(np.mean(values)) for name, values in found.items()}


ACCEPT = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=bool)


def test_a_yardstick_as_worked_out_by_hand():
    stick = Yardstick.of(ACCEPT, np.array([5, 2, 9, 7]))
    assert stick.known.tolist() == [True, True, True, False]
    assert stick.sets.astype(int).tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert stick.group.tolist() == [0, 2, 2, 3]
    np.testing.assert_allclose(stick.train_share, [5 / 16, 0, 11 / 16, 0])
    labels = np.array([[1, 0, 0, 0], [0.2, 0.9, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0.3, 1, 0]])
    right, primary = stick.external(labels)
    assert right.tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0]]
    assert primary.tolist() == [0, 2, -1, 2, 2]
    made = Predictions.of(np.zeros((3, 4)), np.array([[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 1]]))
    part = stick.internal(made)
    assert part.frame["image"].tolist() == ["0", "2"]
    assert part.labels.tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    assert part.primary.tolist() == [2, 0]
    with pytest.raises(UserError, match="no image is of a condition that the external set has"):
        stick.internal(made.take(np.array([1])))


def test_every_number_equals_a_naive_loop_and_the_intervals_are_the_houses():
    internal, other = make_predictions(1), make_predictions(2, images=150)
    accept = np.eye(12, dtype=bool)[:9]
    accept[3, :6] = accept[8, 10:] = True
    stick = Yardstick.of(accept, internal.train_counts)
    labels = np.eye(9)[np.random.default_rng(0).integers(9, size=150)]
    right, primary = stick.external(labels)
    external = replace(other, labels=right, primary=primary)
    ours = stick.internal(internal)
    compared, explained = compare_external(external, ours, stick.train_share, FEW)
    for name, value in naive(external).items():
        assert compared[name].external.estimate == pytest.approx(value, abs=1e-9)
    for name, value in naive(ours).items():
        assert compared[name].internal.estimate == pytest.approx(value, abs=1e-9)
        assert compared[name].difference.estimate == pytest.approx(naive(external)[name] - value, abs=1e-9)
    assert {name: one.external for name, one in compared.items()} == FEW.intervals(external, EXTERNAL_METRICS)
    weights = {g: stick.train_share[g] / (external.primary == g).mean() for g in set(external.primary.tolist())}
    first = external.labels[np.arange(150), external.logits.argmax(axis=1)] > 0
    each = np.array([weights[g] for g in external.primary.tolist()])
    assert explained["r_at_1"].reweighted.estimate == pytest.approx(np.average(first, weights=each), abs=1e-9)


def test_prediction_sets_are_counted_image_by_image_and_drawn_by_case():
    internal, external = clinic(TRAINED, 300, 1), clinic(ELSEWHERE, 200, 2)
    rule = fit_conformal(clinic(TRAINED, 300, 3))
    found = compare_external(external, internal, TRAINED, FEW, rule)[0]
    held, sizes = [], []
    for scores, truth in zip(rule.sets(external), external.positive, strict=True):
        held.append(any(a and b for a, b in zip(scores, truth, strict=True)))
        sizes.append(sum(scores))
    assert found["set_coverage"].external.estimate == pytest.approx(np.mean(held))
    assert found["set_size"].external.estimate == pytest.approx(np.mean(sizes))
    assert found["set_coverage"].external == FEW.mean(np.array(held, dtype=float), external.cases)
    assert found["set_coverage"].difference.estimate == pytest.approx(
        np.mean(held) - (rule.sets(internal) & internal.positive).any(axis=1).mean()
    )
    assert "set_coverage" not in compare_external(external, internal, TRAINED, FEW)[0]


def test_own_labels_are_ranked_for_all_and_by_whether_they_were_trained():
    made = make_predictions(3, images=120)
    trained = np.arange(12) < 5
    found = rank_own_labels(made, trained, FEW)
    first = {"labels of training": made.primary < 5, "other labels": made.primary >= 5, "all": made.primary >= 0}
    assert set(found) == set(first)
    for name, rows in first.items():
        expected = naive(made.take(rows))
        for metric, one in found[name].items():
            assert one.estimate == pytest.approx(expected[metric])
    assert set(rank_own_labels(made, np.ones(12, dtype=bool), FEW)) == {"all", "labels of training"}


def test_the_difference_is_as_wide_as_two_independent_samples():
    same = clinic(TRAINED, 600, 1)  # drawn alike, it would differ from itself by nothing
    one = compare_external(same, same, TRAINED, Bootstrap(2000))[0]["r_at_1"]
    half = [(interval.high - interval.low) / 2 for interval in (one.external, one.internal, one.difference)]
    assert half[2] == pytest.approx(np.hypot(half[0], half[1]), rel=0.1)


@pytest.mark.parametrize("seed", range(10))
def test_em_comes_at_least_twice_as_near_to_the_true_frequencies_as_training(seed):
    other, val = clinic(ELSEWHERE, 800, seed), clinic(TRAINED, 800, 100 + seed)
    found = adjust_prior(other, val, np.arange(CONDITIONS), Bootstrap(50, seed))
    assert found.distance <= found.distance_before / 2
    assert found.change["r_at_1"].low > 0
    assert found.harms == ()


def test_em_that_does_harm_is_said_to():
    other, val = clinic(TRAINED, 800, 0), clinic(TRAINED, 800, 1)
    # every image looks a little more like the rarest condition: EM takes that for its frequency
    shifted = other.with_logits(other.logits + 3.0 * np.eye(CONDITIONS)[-1])
    assert "r_at_1" in adjust_prior(shifted, val, np.arange(CONDITIONS), FEW).harms


def recall(noise):
    """Share of each condition's images that are ranked right, of very many."""
    many = clinic(np.full(CONDITIONS, 1 / CONDITIONS), 80_000, 999, noise)
    return np.array([(many.logits[many.primary == c].argmax(axis=1) == c).mean() for c in range(CONDITIONS)])


@pytest.mark.parametrize("noise", [0.0, 0.15])
def test_reweighting_explains_the_planted_share_of_the_drop(noise):
    here, there = recall(0.0), recall(noise)
    drop = TRAINED @ here - ELSEWHERE @ there
    planted = (TRAINED - ELSEWHERE) @ there / drop
    assert (planted == pytest.approx(1.0)) == (noise == 0.0)
    inside = []
    for seed in range(10):
        external, internal = clinic(ELSEWHERE, 3000, seed, noise), clinic(TRAINED, 3000, 50 + seed)
        share = compare_external(external, internal, TRAINED, FEW)[1]["r_at_1"].share
        inside.append(share.low <= planted <= share.high)
    assert sum(inside) >= 8  # of 95% intervals


def test_em_equals_a_naive_loop():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 50)
    source = np.array([0.4, 0.3, 0.2, 0.1])
    prior = source.copy()
    for _ in range(3000):
        total = np.zeros(4)
        for row in probabilities:
            moved = row * prior / source
            total += moved / moved.sum()
        prior = total / 50
    np.testing.assert_allclose(em_prior(probabilities, source, 1e-12), prior, atol=1e-5)


def test_bias_and_temperature_are_the_logistic_regression_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=20_000)
    logits = 2.0 * np.eye(3)[truth] + rng.standard_normal((20_000, 3)) + [0.5, -1.0, 0.0]
    found = fit_bias_corrected(logits, np.eye(3, dtype=bool)[truth])
    # any matrix of weights is more than one temperature: as good here, since the logits are made alike
    free = LogisticRegression(C=1e6, max_iter=1000).fit(logits, truth)
    ours = log_loss(truth, np.exp(found.log_probabilities(logits)).astype(np.float64))
    assert ours == pytest.approx(log_loss(truth, free.predict_proba(logits)), abs=3e-4)


def test_the_gradient_of_the_fit_with_sets_is_right_and_an_unseen_condition_keeps_its_bias():
    rng = np.random.default_rng(0)
    logits, right = rng.standard_normal((60, 4)), np.zeros((60, 4), dtype=bool)
    right[:30, :2] = right[30:, 2] = True
    start = BiasCorrected(2.0, np.array([0.0, 1.0, 0.0, -20.0]))
    found = fit_bias_corrected(logits, right, start)

    def loss(log_temperature, bias):
        p = np.exp(BiasCorrected(np.exp(log_temperature), bias).log_probabilities(logits).astype(np.float64))
        away = np.append(bias - start.bias, log_temperature - np.log(2.0))
        return -np.log((p * right).sum(axis=1)).sum() + 0.5 * away @ away

    best = loss(np.log(found.temperature), found.bias)
    for step in rng.standard_normal((40, 5)) * 0.03:
        assert loss(np.log(found.temperature) + step[0], found.bias + step[1:]) >= best - 1e-4
    assert found.bias[3] == pytest.approx(-20.0, abs=1e-3)


def test_labels_help_where_the_frequencies_differ_and_too_many_are_not_asked_for():
    other, val = clinic(ELSEWHERE, 600, 3), clinic(TRAINED, 600, 4)
    start = fit_bias_corrected(val.logits, val.positive)
    found, left_out = label_some(other, start, Bootstrap(100), (0, 10, 100, 200))
    assert list(found) == [0, 10, 100]
    assert left_out == (200,)
    none = headline_metrics(other.with_logits(start.log_probabilities(other.logits)))["r_at_1"]
    assert found[0]["r_at_1"].estimate == pytest.approx(none)
    assert found[100]["r_at_1"].low > none
    assert none < found[10]["r_at_1"].estimate < found[100]["r_at_1"].estimate


def test_the_cases_that_are_labelled_are_not_judged(monkeypatch):
    data, fitted = clinic(TRAINED, 100, 0), []
    start = BiasCorrected(1.0, np.zeros(CONDITIONS))
    monkeypatch.setattr("siglip_med.metrics.external.fit_bias_corrected", lambda x, *_: fitted.append(x) or start)
    drawn = external._drawn
    judged = []
    monkeypatch.setattr(external, "_drawn", lambda p, *rest: judged.append(p) or drawn(p, *rest))
    label_some(data, start, FEW, (10,))
    assert len(fitted) == len(judged) == external.DRAWS
    assert len({tuple(one.cases) for one in judged}) == external.DRAWS
    for labelled, rest in zip(fitted, judged, strict=True):
        assert (len(labelled), len(rest)) == (20, 80)
        given = {tuple(row) for row in labelled.tolist()}
        others = {tuple(row) for row, case in zip(data.logits.tolist(), data.cases, strict=True) if case in rest.cases}
        assert not given & others
