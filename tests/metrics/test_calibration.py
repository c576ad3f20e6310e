import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.classification import BinaryCalibrationError

from siglip_med.core.errors import UserError
from siglip_med.metrics import Calibration, calibration_metrics, fit_calibration, headline_metrics, reliability_table
from siglip_med.metrics.calibration import calibration_error
from tests.metrics.simulated import make_predictions


def _error(confidence, outcome, bins=15):
    measure = BinaryCalibrationError(n_bins=bins)
    return float(measure(torch.tensor(confidence).double(), torch.tensor(outcome).long()))


@pytest.mark.parametrize("bins", [5, 15])
def test_calibration_error_against_torchmetrics(bins):
    rng = np.random.default_rng(bins)
    confidence = rng.random(500)
    outcome = rng.random(500) < confidence**2
    assert calibration_error(confidence, outcome, bins) == pytest.approx(_error(confidence, outcome, bins), abs=1e-6)
    assert np.isnan(calibration_error(np.empty(0), np.empty(0, dtype=bool)))


def test_a_confidence_of_one_lies_in_the_last_bin():
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0.0


def test_every_number_against_a_library():
    p = make_predictions(seed=2)
    metrics, confidence = calibration_metrics(p), expit(p.logits.astype(float))
    top = confidence.argmax(axis=1)
    rows = np.arange(len(p))
    assert metrics["ece"] == pytest.approx(_error(confidence.ravel(), p.positive.ravel()), abs=1e-6)
    each = [_error(confidence[:, c], p.positive[:, c]) for c in range(12)]
    assert metrics["ece_classwise"] == pytest.approx(np.mean(each), abs=1e-6)
    assert metrics["ece_top1"] == pytest.approx(_error(confidence[rows, top], p.positive[rows, top]), abs=1e-6)
    assert metrics["brier"] == pytest.approx(brier_score_loss(p.positive.ravel(), confidence.ravel()))
    assert metrics["log_loss"] == pytest.approx(log_loss(p.positive.ravel(), confidence.ravel()))
    assert metrics["ece"] == pytest.approx(headline_metrics(p)["ece"])


def test_reliability_table_by_hand():
    p = make_predictions()
    table, confidence = reliability_table(p, bins=10), expit(p.logits.astype(float))
    for _, row in table.iterrows():
        inside = (confidence >= row["lower"]) & ((confidence < row["upper"]) | (row["upper"] == 1.0))
        assert row["count"] == inside.sum()
        if inside.any():
            assert row["confidence"] == pytest.approx(confidence[inside].mean())
            assert row["frequency"] == pytest.approx(p.positive[inside].mean())
        else:
            assert np.isnan(row["frequency"])
    assert table["count"].sum() == confidence.size


def test_fit_equals_unpenalized_logistic_regression():
    p = make_predictions(images=400)
    fit = fit_calibration(p)
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    reference.fit(p.logits.reshape(-1, 1).astype(float), p.positive.ravel())
    assert 1 / fit.temperature == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert fit.bias == pytest.approx(reference.intercept_[0], abs=1e-3)


def test_fit_undoes_a_known_distortion_and_keeps_the_ranks():
    rng = np.random.default_rng(5)
    p = make_predictions(images=4000)
    logits = rng.standard_normal(p.logits.shape) * 1.5 - 1.0
    labels = (rng.random(logits.shape) < expit(logits)).astype(np.float32)
    keep = labels.any(axis=1)
    true = p.take(keep)
    object.__setattr__(true, "labels", labels[keep])
    object.__setattr__(true, "primary", labels[keep].argmax(axis=1))
    distorted = true.with_logits((logits[keep] - 2.0) * 3.0)
    fit = fit_calibration(distorted)
    assert fit.temperature == pytest.approx(3.0, rel=0.05)
    assert fit.bias == pytest.approx(2.0, abs=0.1)
    calibrated = fit.apply(distorted)
    assert calibration_metrics(calibrated)["ece"] < 0.02 < calibration_metrics(distorted)["ece"]
    assert headline_metrics(calibrated)["mrr"] == pytest.approx(headline_metrics(distorted)["mrr"], abs=1e-4)


def test_separated_scores_give_a_finite_fit():
    p = make_predictions()
    fit = fit_calibration(p.with_logits(np.where(p.positive, 1.0, -1.0)))
    assert np.isfinite([fit.temperature, fit.bias]).all()
    assert fit.temperature > 0


def test_one_kind_of_pair_is_an_error_for_people():
    with pytest.raises(UserError, match="only one kind"):
        fit_calibration(make_predictions().take(np.array([], dtype=int)))


def test_apply():
    p = make_predictions(images=5)
    np.testing.assert_allclose(Calibration(2.0, 1.0).apply(p).logits, p.logits / 2 + 1, rtol=1e-6)
