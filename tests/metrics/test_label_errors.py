"""Labels that look wrong."""

import numpy as np
import pytest

from siglip_med.metrics.label_errors import find_label_errors


def simulated(count: int = 600, conditions: int = 5, wrong: int = 40, seed: int = 0):
    """Probabilities that know the truth roughly, and labels of which some were changed."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(conditions, size=count, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    logits = rng.normal(size=(count, conditions)) + 3 * np.eye(conditions)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    given = truth.copy()
    changed = rng.choice(count, size=wrong, replace=False)
    given[changed] = (given[changed] + rng.integers(1, conditions, size=wrong)) % conditions
    return probabilities, given, truth


def confident_joint_by_hand(probabilities: np.ndarray, given: np.ndarray) -> np.ndarray:
    conditions = 5
    thresholds = [
        np.mean([p[j] for p, y in zip(probabilities, given, strict=True) if y == j]) for j in range(conditions)
    ]
    joint = np.zeros((conditions, conditions), dtype=int)
    for p, y in zip(probabilities, given, strict=True):
        above = [j for j in range(conditions) if p[j] >= thresholds[j]]
        if above:
            joint[y, max(above, key=lambda j: p[j])] += 1
    return joint


@pytest.mark.parametrize("seed", range(4))
def test_likely_errors_are_those_off_the_diagonal_of_the_confident_joint_of_a_plain_loop(seed):
    probabilities, given, _ = simulated(seed=seed)
    found, joint = find_label_errors(probabilities, given), confident_joint_by_hand(probabilities, given)
    off = joint * ~np.eye(len(joint), dtype=bool)
    np.testing.assert_array_equal(np.bincount(given[found.confident], minlength=len(joint)), off.sum(axis=1))


def test_the_margin_is_that_of_a_plain_loop():
    probabilities, given, _ = simulated()
    found = find_label_errors(probabilities, given)
    for row, (p, y) in enumerate(zip(probabilities, given, strict=True)):
        others = {j: p[j] for j in range(len(p)) if j != y}
        best = max(others, key=lambda j: others[j])
        assert found.suggested[row] == best
        assert found.margin[row] == pytest.approx(p[y] - others[best])


def test_planted_errors_come_first_far_more_often_than_by_chance():
    for seed in range(3):
        probabilities, given, truth = simulated(seed=seed)
        wrong = given != truth
        found = find_label_errors(probabilities, given)
        assert wrong[found.ranked()[:40]].mean() > 0.6 > 5 * wrong.mean()
        assert wrong[found.likely()].mean() > 0.4


def test_a_condition_that_is_listed_beside_is_no_mistake():
    probabilities = np.array([[0.1, 0.8, 0.1], [0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.1, 0.1, 0.8]])
    given = np.array([0, 0, 1, 2])
    alone = find_label_errors(probabilities, given)
    positive = np.eye(3, dtype=bool)[given]
    positive[0, 1] = True
    beside = find_label_errors(probabilities, given, positive)
    assert (alone.suggested[0], beside.suggested[0]) == (1, 2)
    assert alone.margin[0] == pytest.approx(-0.7)
    assert beside.margin[0] == pytest.approx(0.0)
    assert not beside.confident[0]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        find_label_errors(np.ones((3, 2)), np.zeros(4, dtype=int))
