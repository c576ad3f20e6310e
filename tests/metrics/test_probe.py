"""The linear probe is scikit-learn's, its C is validation's, and it never sees a test label."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from siglip_med.metrics import Predictions, fit_probe


def data(images: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    primary = rng.permutation(np.arange(images) % classes)
    centers = np.random.default_rng(9).standard_normal((classes, 6))
    return centers[primary] + 1.5 * rng.standard_normal((images, 6)), primary


def frame(primary: np.ndarray, conditions: int) -> Predictions:
    labels = np.eye(conditions)[primary]
    return Predictions.of(np.zeros(labels.shape), labels)


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_are_those_of_scikit_learn_at_the_best_strength_of_validation(classes):
    (x, y), (vx, vy), (tx, ty) = data(80, classes, 0), data(60, classes, 1), data(40, classes, 2)
    strengths = (1e-5, 0.01, 1.0)
    fitted = [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=500)).fit(x, y) for c in strengths]
    accuracy = [model.score(vx, vy) for model in fitted]
    best = int(np.argmax(accuracy))
    probe = fit_probe(x, y, vx, vy, strengths=strengths)
    found = probe.predict(tx, frame(ty, classes))
    assert probe.strength == strengths[best]
    assert (found.logits.argmax(axis=1) == fitted[best].predict(tx)).all()
    assert accuracy[best] > min(accuracy)


def test_a_condition_that_training_never_showed_comes_last():
    (x, y), (vx, vy) = data(80, 3, 0), data(60, 3, 1)
    columns = np.array([0, 2, 3])
    found = fit_probe(x, columns[y], vx, columns[vy]).predict(vx, frame(columns[vy], 4))
    assert (found.logits.argmin(axis=1) == 1).all()


def test_one_condition_in_training_is_always_answered():
    x, y = data(10, 2, 0)
    found = fit_probe(x, np.full(10, 1), x, y).predict(x, frame(y, 2))
    assert (found.logits.argmax(axis=1) == 1).all()


def test_it_says_how_it_was_fitted():
    x, y = data(80, 3, 0)
    probe = fit_probe(x, y, x, y, of=500, strengths=(0.1,))
    assert probe.predict(x, frame(y, 3)).meta["probe"] == (
        "logistic regression on 80 of 500 training images, C=0.1 by validation"
    )
