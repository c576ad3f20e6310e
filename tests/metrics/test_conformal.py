import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from siglip_med.core.errors import UserError
from siglip_med.metrics import conformal_report, fit_conformal
from siglip_med.metrics.conformal import nonconformity
from tests.metrics.simulated import make_predictions


@pytest.fixture(scope="module")
def halves():
    """Validation and test images of one population, parted at random."""
    p = make_predictions(seed=9, images=16_000, signal=1.5)
    return p.take(np.arange(8000)), p.take(np.arange(8000, 16_000))


class _GivenProbabilities(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose features are logits."""

    def __init__(self, classes: int) -> None:
        self.classes_ = np.arange(classes)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, x, y):
        return self

    def predict_proba(self, x):
        return softmax(x, axis=1)

    def predict(self, x):
        return x.argmax(axis=1)


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_sets_for_the_primary_condition_equal_mapie(coverage):
    validation, test = make_predictions(seed=1, images=500), make_predictions(seed=2, images=300)
    mapie = SplitConformalClassifier(_GivenProbabilities(12), confidence_level=coverage, conformity_score="lac")
    mapie.conformalize(validation.logits.astype(float), validation.primary)
    expected = mapie.predict_set(test.logits.astype(float))[1][:, :, 0]
    rule = fit_conformal(validation, coverage, target="primary", score="lac")
    np.testing.assert_array_equal(rule.sets(test), expected)


@pytest.mark.parametrize("target", ["any", "primary", "all"])
@pytest.mark.parametrize("score", ["lac", "aps"])
def test_sets_at_90_percent_cover_88_to_92(halves, target, score):
    validation, test = halves
    report = conformal_report(fit_conformal(validation, 0.9, target, score), test)
    assert 0.88 <= report[f"coverage_{target}"] <= 0.92
    assert report["coverage_all"] <= report["coverage_primary"] <= report["coverage_any"]


def test_report_by_loop():
    validation, test = make_predictions(seed=1, split="val"), make_predictions(seed=2, images=60)
    rule = fit_conformal(validation, 0.8)
    report, sets = conformal_report(rule, test), rule.sets(test)
    any_of, every, top5 = [], [], []
    for row in range(60):
        chosen, labels = set(np.flatnonzero(sets[row])), set(np.flatnonzero(test.labels[row]))
        any_of.append(bool(chosen & labels))
        every.append(labels <= chosen)
        top5.append(bool(set(np.argsort(-test.logits[row])[:5]) & labels))
    assert report["coverage_any"] == pytest.approx(np.mean(any_of))
    assert report["coverage_all"] == pytest.approx(np.mean(every))
    assert report["top5_coverage_any"] == pytest.approx(np.mean(top5))
    assert report["mean_set_size"] == pytest.approx(sets.sum() / 60)
    assert report["empty_sets"] == pytest.approx(np.mean([not row.any() for row in sets]))
    assert (report["top5_size"], report["stated_coverage"]) == (5.0, 0.8)


def test_aps_is_the_mass_of_what_is_at_least_as_likely():
    logits = np.random.default_rng(0).standard_normal((20, 6))
    value = nonconformity(logits, "aps", temperature=2.0)
    probability = softmax(logits / 2.0, axis=1)
    for row in range(20):
        for c in range(6):
            mass = sum(p for p in probability[row] if p >= probability[row, c])
            assert value[row, c] == pytest.approx(mass)


def test_more_coverage_needs_larger_sets():
    validation, test = make_predictions(seed=1), make_predictions(seed=2)
    small, large = (fit_conformal(validation, share).sets(test) for share in (0.7, 0.95))
    assert (small <= large).all()
    assert small.sum() < large.sum()


def test_too_little_validation_gives_every_condition():
    rule = fit_conformal(make_predictions().take(np.arange(5)), 0.9)
    assert rule.threshold == np.inf
    assert rule.sets(make_predictions()).all()
    assert np.isfinite(fit_conformal(make_predictions().take(np.arange(9)), 0.9).threshold)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90.0])
def test_coverage_is_a_share(coverage):
    with pytest.raises(UserError, match="coverage"):
        fit_conformal(make_predictions(), coverage)


def test_no_image_to_calibrate_by():
    with pytest.raises(UserError, match="no image"):
        fit_conformal(make_predictions().take(np.array([], dtype=int)))
