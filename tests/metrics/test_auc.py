import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from siglip_med.metrics.auc import OneVsRest, auc_per_condition
from tests.metrics.simulated import make_predictions


@pytest.mark.parametrize("levels", [3, 20, 10_000])
def test_weighted_auc_and_precision_against_scikit_learn(levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=300).astype(np.float32)
    positive, case = rng.random(300) < 0.2, rng.integers(60, size=300)
    weights = rng.integers(0, 4, size=(5, 60)).astype(float)
    auc, precision = OneVsRest.build(scores, positive, case, 60).auc_and_precision(weights.T)
    for row in range(5):
        sample = weights[row, case]
        assert auc[row] == pytest.approx(roc_auc_score(positive, scores, sample_weight=sample))
        assert precision[row] == pytest.approx(average_precision_score(positive, scores, sample_weight=sample))


def test_every_condition_and_the_undefined_ones():
    predictions = make_predictions(conditions=6)
    positive = predictions.positive.copy()
    positive[:, 1], positive[:, 2] = False, True
    auc, precision = auc_per_condition(predictions.logits, positive)
    for condition in (0, 3, 4, 5):
        assert auc[condition] == pytest.approx(roc_auc_score(positive[:, condition], predictions.logits[:, condition]))
    assert np.isnan(auc[[1, 2]]).all()
    assert np.isnan(precision[1])
    assert precision[2] == 1.0
