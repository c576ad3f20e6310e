import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    label_ranking_average_precision_score,
    precision_score,
    recall_score,
    roc_auc_score,
)
from torchmetrics.classification import BinaryCalibrationError

from siglip_med.losses.sigmoid import weighted_sigmoid
from siglip_med.metrics import HEADLINE_METRICS, RESAMPLED_METRICS, defined_conditions, headline_metrics
from siglip_med.metrics.resampling import CaseStatistics
from tests.metrics.simulated import make_predictions


def _hops_by_loop(distances):
    """HOPS of one image as the paper's formula reads, place by place: distances in the order of the ranking."""
    levels = sorted(set(distances))
    found = [levels.index(d) for d in distances]
    best = sorted(found)
    weights = []
    for level in range(len(levels)):
        places = best.count(level)
        start, stop = 2.0**-level, 2.0 ** -(level + 1)
        if level == len(levels) - 1:
            stop = 0.0
        elif level == 0:
            stop = 1.0
        weights += [start - (start - stop) * place / places for place in range(places)]
    off = sum(w * abs(a - b) for w, a, b in zip(weights, best, found, strict=True))
    worst = sum(w * abs(a - b) for w, a, b in zip(weights, best, reversed(best), strict=True))
    return max(0.0, 1 - off / worst)


def _by_loop(predictions):
    """Every metric that is a mean over images, with dictionaries and plain loops."""
    p = predictions
    values = {name: [] for name in RESAMPLED_METRICS}
    macro = {1: {}, 5: {}}
    for row in range(len(p)):
        ranking = sorted(range(len(p.conditions)), key=lambda c: -p.logits[row, c])
        labels = [c for c in range(len(p.conditions)) if p.labels[row, c] > 0]
        distance = [min(p.dissimilarity[label, c] for label in labels) for c in ranking]
        for k in (1, 5):
            hit = any(c in labels for c in ranking[:k])
            values[f"r_at_{k}"].append(hit)
            values[f"r_at_{k}_primary"].append(p.primary[row] in ranking[:k])
            macro[k].setdefault(p.primary[row], []).append(hit)
        values["mrr"].append(1 / min(ranking.index(label) + 1 for label in labels))
        values["icd_distance_all"].append(distance[0])
        values["icd_distance_top5"].append(sum(distance[:5]) / 5)
        values["hops"].append(_hops_by_loop([round(d, 6) for d in distance]))
        if ranking[0] not in labels:
            values["icd_distance_mistakes"].append(distance[0])
        values["chapter_accuracy"].append(p.chapters[ranking[0]] in {p.chapters[label] for label in labels})
        values["block_accuracy"].append(p.blocks[ranking[0]] in {p.blocks[label] for label in labels})
    result = {name: np.mean(value) for name, value in values.items() if value}
    return result | {f"macro_r_at_{k}": np.mean([np.mean(hits) for hits in macro[k].values()]) for k in (1, 5)}


@pytest.mark.parametrize("seed", range(3))
def test_means_over_images_and_over_conditions_against_loops(seed):
    predictions = make_predictions(seed=seed, images=120, conditions=15)
    metrics = headline_metrics(predictions)
    expected = _by_loop(predictions)
    assert len(expected) == 13
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value), name


@pytest.mark.parametrize("seed", range(3))
def test_the_rest_against_scikit_learn_and_torchmetrics(seed):
    p = make_predictions(seed=seed, images=150)
    p = p.take(p.primary != 1)  # a condition that is predicted and nobody's primary one
    p = p.with_logits(0.3 * p.logits)  # too sure of some pairs and not sure enough of others
    metrics, top = headline_metrics(p), p.logits.argmax(axis=1)
    present = np.unique(p.primary)
    assert 1 in top
    assert metrics["macro_f1"] == pytest.approx(f1_score(p.primary, top, labels=present, average="macro"))
    assert metrics["macro_recall"] == pytest.approx(recall_score(p.primary, top, labels=present, average="macro"))
    precision = precision_score(p.primary, top, labels=np.unique(top), average="macro")
    assert metrics["macro_precision"] == pytest.approx(precision)
    columns = [c for c in range(12) if p.positive[:, c].any()]
    assert metrics["macro_auc"] == pytest.approx(roc_auc_score(p.positive[:, columns], p.logits[:, columns]))
    assert metrics["t2i_map"] == pytest.approx(average_precision_score(p.positive[:, columns], p.logits[:, columns]))
    assert metrics["map"] == pytest.approx(label_ranking_average_precision_score(p.positive, p.logits))
    confidence = torch.tensor(p.logits).double().sigmoid().reshape(-1)
    positive = torch.tensor(p.positive).long().reshape(-1)
    assert metrics["ece"] == pytest.approx(float(BinaryCalibrationError(n_bins=15)(confidence, positive)), abs=1e-6)
    assert metrics["loss"] == pytest.approx(
        float(weighted_sigmoid(torch.tensor(p.logits), torch.tensor(p.labels), 1.0, "balanced")), rel=1e-5
    )


def test_names_are_stable_and_in_order():
    assert tuple(headline_metrics(make_predictions())) == HEADLINE_METRICS


def test_perfect_predictions():
    predictions = make_predictions()
    metrics = headline_metrics(predictions.with_logits(40 * predictions.labels - 0.1 * np.arange(12)))
    for name in ("r_at_1", "r_at_1_primary", "macro_r_at_5", "mrr", "map", "ndcg", "macro_f1", "chapter_accuracy"):
        assert metrics[name] == pytest.approx(1.0), name
    assert metrics["icd_distance_all"] == 0.0
    assert np.isnan(metrics["icd_distance_mistakes"])


def test_resampling_by_weights_equals_repeating_the_rows():
    predictions = make_predictions(images=150, cases=40)
    names, case = np.unique(predictions.cases, return_inverse=True)
    weights = np.random.default_rng(0).integers(0, 4, size=(6, len(names)))
    values = CaseStatistics.build(predictions, predictions.cases).values(weights.astype(float))
    for row in range(6):
        repeated = predictions.take(np.repeat(np.arange(150), weights[row][case]))
        expected = headline_metrics(repeated)
        assert set(values) == set(RESAMPLED_METRICS)
        for name in RESAMPLED_METRICS:
            assert values[name][row] == pytest.approx(expected[name]), name


def test_what_is_undefined_is_nan_and_never_made_up():
    predictions = make_predictions()
    bare = dataclasses.replace(predictions, chapters=(), blocks=(), image_embeddings=np.empty((0, 8)))
    metrics = headline_metrics(bare)
    undefined = {name for name, value in metrics.items() if np.isnan(value)}
    assert undefined == {"chapter_accuracy", "block_accuracy", "spearman_image_d"}
    none = headline_metrics(bare.take(np.array([], dtype=int)))
    assert {name for name, value in none.items() if not np.isnan(value)} == {"spearman_text_d"}


def test_conditions_without_an_image_do_not_move_the_means_over_conditions():
    predictions = make_predictions(conditions=9)
    worse = np.concatenate([predictions.logits, np.full((200, 3), -30.0)], axis=1)
    more = make_predictions(conditions=12)
    wider = dataclasses.replace(
        more, logits=worse, labels=np.pad(predictions.labels, ((0, 0), (0, 3))), primary=predictions.primary
    )
    before, after = headline_metrics(predictions), headline_metrics(wider)
    for name in ("macro_r_at_5", "macro_f1", "macro_precision", "macro_auc", "t2i_map"):
        assert before[name] == pytest.approx(after[name]), name
    assert defined_conditions(wider) == {"conditions": 12, "primary": 9, "positive": 9, "auc": 9}
