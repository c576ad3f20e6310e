"""Kernel ridge regression on the tree: equal to scikit-learn's and to a naive loop; chosen on validation alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge as Theirs

from siglip_med.metrics import Predictions, headline_metrics
from siglip_med.metrics import kernel_ridge as module
from siglip_med.metrics.kernel_ridge import fit_kernel_ridge, rbf, tree_targets

C, F = 5, 7
D = 1.0 - np.array(
    [[1, 0.6, 0.2, 0, 0], [0.6, 1, 0.2, 0, 0], [0.2, 0.2, 1, 0, 0], [0, 0, 0, 1, 0.4], [0, 0, 0, 0.4, 1]], dtype=float
)


def data(images, seed=0, several=False):
    """Features around the conditions' centers, and labels; the same centers for every seed."""
    rng, centers = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(C, F))
    first = rng.integers(C, size=images)
    labels = np.eye(C)[first]
    if several:
        labels = np.maximum(labels, 0.5 * np.eye(C)[rng.integers(C, size=images)])
    return centers[first] * [3, 1, 1, 1, 1, 1, 100] + rng.normal(size=(images, F)) * [3, 1, 1, 1, 1, 1, 100], labels


def frame(labels):
    return Predictions.of(np.zeros_like(labels), labels, dissimilarity=D)


def naive(x, labels, new, width, ridge, eta):
    """The formula of the docstring, one number at a time."""
    mean, scale = x.mean(axis=0), x.std(axis=0)

    def kernel(a, b):
        return np.exp(-width * sum(((a[f] - b[f]) / scale[f]) ** 2 for f in range(F)) / F)

    targets = np.array(
        [[y[c] + eta * sum(y[k] / y.sum() * (1 - D[k, c]) for k in range(C)) for c in range(C)] for y in labels]
    )
    gram = np.array([[kernel(a, b) for b in x] for a in x])
    alpha = np.linalg.inv(gram + ridge * np.eye(len(x))) @ (targets - targets.mean(axis=0))
    return np.array([[kernel(one, b) for b in x] for one in new]) @ alpha + targets.mean(axis=0), mean


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.4])
def test_scores_are_those_of_the_formula(monkeypatch, several, eta):
    monkeypatch.setattr(module, "WIDTHS", (1.0,))
    monkeypatch.setattr(module, "RIDGES", (0.1,))
    monkeypatch.setattr(module, "COST", 1.0)
    (x, labels), (v, of_val) = data(40, several=several), data(12, seed=1)
    found = fit_kernel_ridge(x, labels, v, frame(of_val), trees=(0.0, eta))
    expected, mean = naive(x, labels, v, 1.0, 0.1, eta)
    assert (found.width, found.ridge, found.tree) == (1.0, 0.1, eta)
    np.testing.assert_allclose(found.scores(v), expected, atol=1e-5)
    np.testing.assert_allclose(found.mean, mean)


def test_it_equals_scikit_learns():
    (x, labels), (v, of_val) = data(60), data(30, seed=1)
    found = fit_kernel_ridge(x, labels, v, frame(of_val), trees=(0.0,))
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    theirs = Theirs(alpha=found.ridge, kernel="rbf", gamma=found.width / F).fit(standard, labels - labels.mean(axis=0))
    expected = theirs.predict((v - x.mean(axis=0)) / x.std(axis=0)) + labels.mean(axis=0)
    np.testing.assert_allclose(found.scores(v), expected, atol=1e-5)


def test_validation_chooses_width_and_ridge_by_mrr_and_the_largest_tree_that_costs_little():
    (x, labels), (v, of_val) = data(60), data(200, seed=1)
    val = frame(of_val)
    found = fit_kernel_ridge(x, labels, v, val)

    def mrr(width, ridge, eta):
        scores = naive(x, labels, v, width, ridge, eta)[0]
        return headline_metrics(found.predict(v, val).__class__.of(scores, of_val, dissimilarity=D))["mrr"]

    widths = {width: mrr(width, module.RIDGES[0], 0.0) for width in module.WIDTHS}
    assert widths[found.width] == pytest.approx(max(widths.values()), abs=1e-6)
    ridges = {ridge: mrr(found.width, ridge, 0.0) for ridge in module.RIDGES}
    best = max(ridges.values())
    assert ridges[found.ridge] == pytest.approx(best, abs=1e-6)
    allowed = [eta for eta in module.TREES if mrr(found.width, found.ridge, eta) >= best - module.COST]
    assert found.tree == max(allowed)


def test_with_as_many_centers_as_images_nystroem_is_exact(monkeypatch):
    (x, labels), (v, of_val) = data(80), data(20, seed=1)
    monkeypatch.setattr(module, "WIDTHS", (1.0,))
    exact = fit_kernel_ridge(x, labels, v, frame(of_val), trees=(0.0,))
    monkeypatch.setattr(module, "_JITTER", 1e-12)
    weights = module._nystroem(exact.centers, labels.astype(float), exact.centers, exact.width, exact.ridge)
    np.testing.assert_allclose(weights, exact.weights, atol=1e-4)


def test_above_the_limit_fewer_centers_rank_nearly_as_well(monkeypatch):
    (x, labels), (v, of_val) = data(600), data(200, seed=1)
    val = frame(of_val)
    exact = headline_metrics(fit_kernel_ridge(x, labels, v, val).predict(v, val))["mrr"]
    monkeypatch.setattr(module, "EXACT", 200)
    monkeypatch.setattr("siglip_med.metrics.blocks.ROWS", 64)
    few = fit_kernel_ridge(x, labels, v, val)
    assert few.centers.shape == (200, F)
    assert headline_metrics(few.predict(v, val))["mrr"] == pytest.approx(exact, abs=0.02)


def test_a_target_leans_towards_what_is_near_and_an_image_without_label_nowhere():
    labels = np.array([[1, 0, 0, 0, 0], [0.5, 0, 0, 0.5, 0], [0, 0, 0, 0, 0]])
    plain, lean = tree_targets(labels, D)
    np.testing.assert_array_equal(plain, labels)
    np.testing.assert_allclose(lean[0], 1 - D[0])
    np.testing.assert_allclose(lean[1], (1 - D[0] + 1 - D[3]) / 2)
    np.testing.assert_array_equal(lean[2], np.zeros(C))


@given(st.floats(0.1, 5.0), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_the_kernel_is_one_at_no_distance_symmetric_and_falls(width, seed):
    x = np.random.default_rng(seed).normal(size=(6, 3))
    kernel = rbf(x, x, width)
    np.testing.assert_allclose(np.diag(kernel), 1.0)
    np.testing.assert_allclose(kernel, kernel.T)
    assert kernel.max() <= 1.0
    assert np.linalg.eigvalsh(kernel).min() > -1e-9
    assert (rbf(x, x, 2 * width) <= kernel + 1e-12).all()


def test_a_constant_feature_and_a_single_condition_give_finite_scores():
    x, labels = np.ones((4, 2)), np.eye(2)[[0, 0, 0, 0]]
    val = Predictions.of(np.zeros((2, 2)), np.eye(2)[[0, 1]])
    found = fit_kernel_ridge(x, labels, x[:2], val)
    assert np.isfinite(found.scores(x)).all()
    assert found.about().startswith("kernel ridge regression on all 4 training images, width 0.125, ridge 0.03, ")
    assert found.scores(np.empty((0, 2))).shape == (0, 2)
