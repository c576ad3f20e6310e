"""One answer per case: each pooling by a naive loop, the paired gain, and SCIN's real cases."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from siglip_med.core.case_pooling import POOLINGS, pool_logits
from siglip_med.metrics import Bootstrap, Predictions, against_images, case_metrics, headline_metrics, per_case
from siglip_med.sources import ScinSource
from tests.metrics.simulated import make_predictions


def pooled_by_loop(scores: list[float], how: str) -> float:
    """Of one condition, in plain numbers."""
    p = [1 / (1 + math.exp(-score)) for score in scores]
    value = {
        "mean_logit": None,
        "mean_probability": sum(p) / len(p),
        "max": max(p),
        "noisy_or": 1 - math.prod(1 - one for one in p),
    }[how]
    return sum(scores) / len(scores) if value is None else math.log(value / (1 - value))


@pytest.mark.parametrize("how", POOLINGS)
def test_each_pooling_equals_a_naive_loop(how):
    p = make_predictions(seed=3, images=120, cases=50)
    found = per_case(p, how)
    assert found.cases.tolist() == sorted(set(p.cases))
    for row, case in enumerate(found.cases):
        images = [i for i in range(len(p)) if p.cases[i] == case]
        for c in range(len(p.conditions)):
            expected = pooled_by_loop([float(p.logits[i, c]) for i in images], how)
            assert found.logits[row, c] == pytest.approx(expected, abs=1e-5)
            assert found.labels[row, c] == max(p.labels[i, c] for i in images)
        assert found.primary[row] == p.primary[images[0]]
        sites = {p.frame["site"].iloc[i] for i in images}
        assert found.frame["site"].iloc[row] == (sites.pop() if len(sites) == 1 else "")


@pytest.mark.parametrize("how", POOLINGS)
def test_scores_far_from_zero_stay_finite(how):
    rows = np.array([[-800.0, 800.0, 0.0], [-700.0, 900.0, 40.0]])
    found = pool_logits(rows, np.zeros(2, dtype=int), how)
    assert np.isfinite(found).all()
    assert found[0, 0] < -650
    assert found[0, 1] > 650 if how != "mean_probability" else found[0, 1] > 700
    mild = np.array([[-3.0], [2.0]])
    by_hand = {"mean_probability": logit(expit(mild).mean()), "noisy_or": logit(1 - np.prod(1 - expit(mild)))}
    if how in by_hand:
        assert pool_logits(mild, np.zeros(2, dtype=int), how).item() == pytest.approx(by_hand[how])


def test_unfamiliar_images_are_left_out_of_cases_that_have_others():
    logits = [[4.0, 0.0], [0.0, 2.0], [0.0, 6.0], [1.0, 0.0]]
    p = Predictions.of(logits, [[1, 0]] * 4, cases=["a", "a", "b", "b"])
    p = replace(p, familiarity=np.array([0.5, 0.01, 0.02, 0.04], dtype=np.float32))
    found = per_case(p)
    assert found.logits.tolist() == [[4.0, 0.0], [0.5, 3.0]]
    assert found.familiarity.tolist() == pytest.approx([0.5, 0.04])
    assert found.unfamiliar.tolist() == [False, True]


def test_gain_by_loop_and_nothing_where_no_case_has_several_images():
    p = make_predictions(seed=4, images=150, cases=70)
    table = {(one.metric, one.several): one for one in against_images(p, Bootstrap(300))}
    sizes, singles, ones = [], [], []
    pooled = per_case(p)
    for row, case in enumerate(pooled.cases):
        images = [i for i in range(len(p)) if p.cases[i] == case]
        sizes.append(len(images))
        singles.append(np.mean([p.labels[i, p.logits[i].argmax()] > 0 for i in images]))
        ones.append(pooled.labels[row, pooled.logits[row].argmax()] > 0)
    best = np.array(ones) - np.array(singles)
    several = np.array(sizes) > 1
    assert table["r_at_1", False].gain.estimate == pytest.approx(best.mean())
    assert table["r_at_1", True].gain.estimate == pytest.approx(best[several].mean())
    assert table["r_at_1", True].count == several.sum()
    assert table["r_at_1", False].image.estimate == pytest.approx(np.mean(singles))
    assert table["mrr", False].case.estimate == pytest.approx(headline_metrics(pooled)["mrr"])
    assert case_metrics(p)["case_r_at_1"] == pytest.approx(np.mean(ones))
    alone = p.take(np.unique(p.cases, return_index=True)[1])
    assert case_metrics(alone) == {}
    assert not any(one.several for one in against_images(alone, Bootstrap(50)))
    np.testing.assert_array_equal(per_case(alone).logits, alone.logits)


def test_the_cases_of_scin(shared):
    """Its real tables with made-up logits against the published list: 5,909 images of 2,775 cases of one to three."""
    folder = shared / "data/metadata/scin"
    table = ScinSource(root=str(folder)).load()
    logits = np.random.default_rng(0).normal(size=table.labels.shape)
    p = Predictions.of(logits, table.labels, cases=table.cases.tolist())
    found = per_case(replace(p, primary=table.frame["primary"].to_numpy()))
    assert (len(p), len(found)) == (5909, 2775)
    published = pd.read_csv(folder / "scin_66_images.csv", dtype=str, keep_default_na=False)
    assert table.frame["image_id"].tolist() == published["image_id"].tolist()
    rows = published.groupby("case_id").indices
    assert set(map(len, rows.values())) == {1, 2, 3}
    for row, case in enumerate(found.cases):
        mean = sum(logits[image] for image in rows[case]) / len(rows[case])
        np.testing.assert_allclose(found.logits[row], mean, atol=1e-5)
        np.testing.assert_array_equal(found.labels[row], table.labels[rows[case][0]])
