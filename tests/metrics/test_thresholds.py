import dataclasses

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from siglip_med.core.errors import UserError
from siglip_med.metrics import choose_thresholds, classification_summary, classification_table, confusion_matrix
from tests.metrics.simulated import make_predictions


def _best_f1(scores, truth):
    return max(f1_score(truth, scores >= cut) for cut in np.unique(scores))


def test_thresholds_reach_the_best_f1_of_all_cuts():
    p = make_predictions()
    p = p.with_logits(np.round(p.logits * 2) / 2)  # ties
    thresholds = choose_thresholds(p, minimum_positives=1)
    for c in np.flatnonzero(p.positive.any(axis=0)):
        reached = f1_score(p.positive[:, c], p.logits[:, c] >= thresholds[c])
        assert reached == pytest.approx(_best_f1(p.logits[:, c], p.positive[:, c]))


def test_rare_conditions_share_the_pooled_threshold():
    p = make_predictions()
    positives = p.positive.sum(axis=0)
    limit = int(np.sort(positives)[6])
    thresholds = choose_thresholds(p, minimum_positives=limit)
    own = positives >= limit
    np.testing.assert_array_equal(thresholds[own], choose_thresholds(p, minimum_positives=1)[own])
    pooled = np.unique(thresholds[positives < limit])
    assert len(pooled) == 1
    reached = f1_score(p.positive.ravel(), p.logits.ravel() >= pooled[0])
    order = np.unique(p.logits.ravel())[::40]
    assert reached >= max(f1_score(p.positive.ravel(), p.logits.ravel() >= cut) for cut in order)


def test_five_positives_are_enough_for_a_threshold_of_its_own_and_four_are_not():
    p = make_predictions(images=400)
    labels = p.labels.copy()
    for condition, kept in ((10, 5), (11, 4)):
        rows = np.flatnonzero((labels[:, condition] > 0) & (p.primary != condition))
        labels[rows[kept:], condition] = 0
    keep = ~np.isin(p.primary, (10, 11))
    p = dataclasses.replace(p.take(keep), labels=labels[keep])
    assert p.positive[:, 10:].sum(axis=0).tolist() == [5, 4]
    own, pooled = choose_thresholds(p, minimum_positives=1), choose_thresholds(p, minimum_positives=10**6)
    thresholds = choose_thresholds(p)
    assert own[10] != pooled[10]
    assert thresholds[10] == own[10]
    assert thresholds[11] == pooled[11]


def test_threshold_lies_between_the_scores_it_parts():
    p = make_predictions()
    threshold = choose_thresholds(p, 1)[0]
    assert threshold not in p.logits[:, 0]
    with pytest.raises(UserError, match="none"):
        choose_thresholds(p.take(np.array([], dtype=int)))


def test_table_and_means_against_scikit_learn():
    validation, p = make_predictions(seed=1, split="val"), make_predictions(seed=2)
    thresholds = choose_thresholds(validation)
    table = classification_table(p, thresholds)
    for c, row in table.iterrows():
        truth, called = p.positive[:, c], p.logits[:, c] >= thresholds[c]
        assert (row["positives"], row["predicted"]) == (truth.sum(), called.sum())
        assert row["precision"] == pytest.approx(precision_score(truth, called, zero_division=np.nan), nan_ok=True)
        assert row["recall"] == pytest.approx(recall_score(truth, called, zero_division=np.nan), nan_ok=True)
        assert row["f1"] == pytest.approx(f1_score(truth, called, zero_division=np.nan), nan_ok=True)
        assert row["accuracy"] == pytest.approx(accuracy_score(truth, called))
        assert row["auc"] == pytest.approx(roc_auc_score(truth, p.logits[:, c]))
        assert row["average_precision"] == pytest.approx(average_precision_score(truth, p.logits[:, c]))
    summary = classification_summary(validation, p)
    for name in ("precision", "recall", "f1", "accuracy", "auc", "average_precision"):
        assert summary[f"thresholded_macro_{name}"] == pytest.approx(table[name].mean())
        assert summary[f"defined_{name}"] == table[name].notna().sum()


def test_a_condition_without_an_image_is_undefined_and_left_out():
    p = make_predictions(images=40)
    labels = p.labels.copy()
    labels[:, 11] = 0.0
    primary = labels.argmax(axis=1)
    keep = labels.any(axis=1)
    p = dataclasses.replace(p.take(keep), labels=labels[keep], primary=primary[keep])
    table = classification_table(p, np.full(12, 100.0))
    last = table.iloc[11]
    assert np.isnan([last["recall"], last["f1"], last["auc"], last["precision"]]).all()
    assert last["accuracy"] == 1.0
    assert classification_summary(p, p)["defined_auc"] == table["auc"].notna().sum() < 12


def test_confusion_by_loop():
    p = make_predictions()
    expected = np.zeros((12, 12), dtype=int)
    for row in range(len(p)):
        top = int(p.logits[row].argmax())
        expected[p.primary[row], p.primary[row] if p.labels[row, top] > 0 else top] += 1
    np.testing.assert_array_equal(confusion_matrix(p), expected)
