import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import ttest_rel

from siglip_med.core.errors import UserError
from siglip_med.metrics import (
    HEADLINE_METRICS,
    RESAMPLED_METRICS,
    Bootstrap,
    Predictions,
    headline_metrics,
    text_to_image,
)
from tests.metrics.simulated import make_predictions, tree_distance


def test_case_weights_are_draws_with_replacement():
    weights = np.concatenate(list(Bootstrap(4000).weights(50, seed=0)))
    assert weights.shape == (4000, 50)
    assert (weights.sum(axis=1) == 50).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1.0, atol=0.1)
    np.testing.assert_allclose(weights.var(axis=0).mean(), 1 - 1 / 50, atol=0.03)


def _first_distance(p: Predictions) -> np.ndarray:
    """Distance of the first prediction, image by image."""
    top = p.logits.argmax(axis=1)
    return np.array([p.dissimilarity[np.flatnonzero(p.labels[row]), top[row]].min() for row in range(len(p))])


def test_bounds_against_scipy_where_each_case_is_one_image():
    p = make_predictions(images=300)
    p = dataclasses.replace(p, frame=p.frame.assign(case=p.frame["image"]))
    interval = Bootstrap(4000).intervals(p, ("icd_distance_all",))["icd_distance_all"]
    distance = _first_distance(p)
    reference = scipy_bootstrap(
        (distance,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert interval.estimate == pytest.approx(distance.mean())
    assert interval.low == pytest.approx(reference.low, abs=0.004)
    assert interval.high == pytest.approx(reference.high, abs=0.004)
    mean = Bootstrap(4000).mean(distance, p.cases)
    assert (mean.low, mean.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_fast_and_slow_way_agree():
    p = make_predictions(images=150, cases=60)
    for name in ("macro_f1", "macro_auc"):
        fast = Bootstrap(2000).intervals(p, (name,))[name]
        slow = Bootstrap(400, seed=1).function(p, lambda part, name=name: headline_metrics(part)[name])
        assert slow.estimate == pytest.approx(fast.estimate)
        assert slow.low == pytest.approx(fast.low, abs=0.025)
        assert slow.high == pytest.approx(fast.high, abs=0.025)


def test_any_function_has_an_interval():
    p = make_predictions()
    interval = Bootstrap(50).function(p, lambda part: text_to_image(part.logits, part.positive)["t2i_precision_at_10"])
    assert interval.low < interval.estimate < interval.high


def test_images_of_one_case_do_not_count_as_evidence_twice():
    p = make_predictions(images=150)
    one = dataclasses.replace(p, frame=p.frame.assign(case=p.frame["image"]))
    four = one.take(np.tile(np.arange(150), 4))
    width = [np.subtract(*_bounds(Bootstrap(seed=2).intervals(q, ("r_at_1",))["r_at_1"])) for q in (one, four)]
    assert width[0] == pytest.approx(width[1])


def _bounds(interval):
    return interval.high, interval.low


def test_every_headline_has_an_interval_but_the_embeddings_and_the_loss():
    p = make_predictions()
    intervals, metrics = Bootstrap(200).intervals(p), headline_metrics(p)
    assert tuple(intervals) == HEADLINE_METRICS
    for name, interval in intervals.items():
        assert interval.estimate == pytest.approx(metrics[name])
        if name in ("spearman_text_d", "spearman_image_d", "loss"):
            assert np.isnan([interval.low, interval.high]).all()
        else:
            assert interval.low < interval.high, name


def test_same_seed_same_interval():
    p = make_predictions()
    once, again = (Bootstrap(150, seed=5).intervals(p, RESAMPLED_METRICS) for _ in range(2))
    assert once == again
    assert Bootstrap(seed=5).intervals(p, ("mrr",)) != Bootstrap(seed=6).intervals(p, ("mrr",))


def test_wider_coverage_is_a_wider_interval():
    p = make_predictions()
    narrow, wide = (Bootstrap(coverage=share).intervals(p, ("mrr",))["mrr"] for share in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def _population(rng: np.random.Generator, cases: int, conditions: int = 6) -> Predictions:
    """Cases of 1 to 4 images with a shared effect, single label, R@1 true in 0.6 of the images on average."""
    per_case = rng.integers(1, 5, size=cases)
    case = np.repeat(np.arange(cases), per_case)
    hit = rng.random(len(case)) < np.repeat(rng.beta(3.0, 2.0, size=cases), per_case)
    primary = rng.integers(conditions, size=len(case))
    top = np.where(hit, primary, (primary + rng.integers(1, conditions, size=len(case))) % conditions)
    text = [""] * len(case)
    columns = ("image", "image_id", "skin_tone", "sex", "age_group", "site")
    return Predictions(
        logits=np.eye(conditions, dtype=np.float32)[top] + np.linspace(0, 0.1, conditions, dtype=np.float32),
        labels=np.eye(conditions, dtype=np.float32)[primary],
        primary=primary,
        frame=pd.DataFrame({"case": case.astype(str)} | dict.fromkeys(columns, text)),
        conditions=tuple(map(str, range(conditions))),
        codes=("L30.9",) * conditions,
        groups=("",) * conditions,
        dissimilarity=tree_distance(conditions),
        train_counts=np.ones(conditions),
        text_embeddings=np.empty((conditions, 0)),
        image_embeddings=np.empty((0, 0)),
    )


def test_intervals_of_95_percent_cover_the_truth_in_92_to_98_percent_of_500_repetitions():
    covered = dict.fromkeys(("r_at_1", "macro_r_at_1", "icd_distance_all"), 0)
    distance = tree_distance(6)
    mean_miss = distance.sum() / (6 * 5)
    truth = {"r_at_1": 0.6, "macro_r_at_1": 0.6, "icd_distance_all": 0.4 * mean_miss}
    for seed in range(500):
        p = _population(np.random.default_rng(seed), cases=120)
        for name, interval in Bootstrap(500, seed).intervals(p, tuple(covered)).items():
            covered[name] += interval.low <= truth[name] <= interval.high
    shares = {name: count / 500 for name, count in covered.items()}
    assert all(0.92 <= share <= 0.98 for share in shares.values()), shares


def test_a_run_does_not_differ_from_itself():
    p = make_predictions()
    result = Bootstrap(200).paired([(p, p)], ("r_at_1",))["r_at_1"]
    assert (result.difference, result.low, result.high, result.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert result.minimum_detectable_difference == 0.0


def _noisier(p: Predictions, sd: float, seed: int = 0) -> Predictions:
    return p.with_logits(p.logits + sd * np.random.default_rng(seed).standard_normal(p.logits.shape))


def test_paired_against_the_t_test_and_its_standard_error():
    p = make_predictions(images=400)
    p = dataclasses.replace(p, frame=p.frame.assign(case=p.frame["image"]))
    worse = _noisier(p, 0.7)
    result = Bootstrap(4000).paired([(p, worse)], ("icd_distance_all",))["icd_distance_all"]
    a, b = _first_distance(p), _first_distance(worse)
    reference = ttest_rel(a, b)
    assert result.difference == pytest.approx((a - b).mean())
    assert result.p_value == pytest.approx(reference.pvalue, abs=0.02)
    assert result.minimum_detectable_difference == pytest.approx(2.8 * (a - b).std() / np.sqrt(400), rel=0.05)
    interval = reference.confidence_interval()
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high), abs=0.004)


def test_p_values_of_equal_runs_are_small_as_often_as_they_say():
    small = 0
    for seed in range(150):
        p = make_predictions(seed=seed, images=120)
        a, b = _noisier(p, 0.5, 2 * seed), _noisier(p, 0.5, 2 * seed + 1)
        small += Bootstrap(300, seed).paired([(a, b)], ("mrr",))["mrr"].p_value <= 0.1
    assert 0.04 <= small / 150 <= 0.17


def test_a_better_run_is_seen_and_sides_matter():
    p = make_predictions(images=400)
    better = Bootstrap().paired([(p, _noisier(p, 3.0))], ("r_at_1",))["r_at_1"]
    assert better.low > 0
    assert better.p_value == pytest.approx(1 / 1001)
    assert better.difference > better.minimum_detectable_difference
    turned = Bootstrap().paired([(_noisier(p, 3.0), p)], ("r_at_1",))["r_at_1"]
    assert turned.difference == pytest.approx(-better.difference)


def test_images_are_matched_whatever_their_order():
    p = make_predictions()
    other = _noisier(p, 1.0)
    shuffled = other.take(np.random.default_rng(0).permutation(len(p)))
    assert Bootstrap().paired([(p, other)], ("mrr",)) == Bootstrap().paired([(p, shuffled)], ("mrr",))


def test_both_runs_are_judged_with_one_distance_matrix():
    p = make_predictions()
    flat = dataclasses.replace(p, dissimilarity=1.0 - np.eye(12))
    assert Bootstrap().paired([(p, flat)], ("icd_distance_all",))["icd_distance_all"].difference == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.take(np.arange(150)), "different images"),
        (lambda p: dataclasses.replace(p, conditions=p.conditions[::-1]), "different conditions"),
        (lambda p: dataclasses.replace(p, labels=np.ones_like(p.labels)), "different labels"),
    ],
)
def test_runs_that_cannot_be_compared(change, message):
    p = make_predictions()
    with pytest.raises(UserError, match=message):
        Bootstrap().paired([(p, change(p))])


def test_unknown_metric_and_empty_split():
    p = make_predictions()
    with pytest.raises(UserError, match="r_at_7"):
        Bootstrap().intervals(p, ("r_at_7",))
    with pytest.raises(UserError, match="spearman"):
        Bootstrap().paired([(p, p)], ("spearman_text_d",))
    none = p.take(np.array([], dtype=int))
    judge = Bootstrap()
    for ask in (judge.intervals, lambda q: judge.paired([(q, q)]), lambda q: judge.mean([], q.cases)):
        with pytest.raises(UserError, match="image"):
            ask(none)


def test_values_that_do_not_apply_are_left_out_of_a_mean():
    values, cases = np.array([1.0, np.nan, 0.0, 1.0]), np.array(["a", "a", "b", "c"])
    assert Bootstrap().mean(values, cases).estimate == pytest.approx(2 / 3)


def test_over_seeds_shared_cases_are_drawn_alike_and_differences_averaged():
    random = np.random.default_rng(0)

    def run(strength, cases=30):
        labels = np.eye(6)[random.integers(6, size=cases)]
        return Predictions.of(strength * labels + random.normal(size=(cases, 6)), labels)

    def like(run, strength):
        return Predictions.of(strength * run.positive + random.normal(size=run.positive.shape), run.positive)

    one, two = run(2.0), run(1.0)
    pairs = [(one, like(one, 0.5)), (two, like(two, 0.5))]
    judge = Bootstrap(300)
    alone = judge.paired(pairs[:1], ["mrr"])["mrr"]
    # the same pair twice has the interval of one: its cases stand or fall together
    assert judge.paired([pairs[0], pairs[0]], ["mrr"])["mrr"].low == pytest.approx(alone.low)
    both = judge.paired(pairs, ["mrr"])["mrr"]
    each = [judge.paired([pair], ["mrr"])["mrr"].difference for pair in pairs]
    assert both.difference == pytest.approx(np.mean(each))
    with pytest.raises(UserError, match="at least one pair"):
        judge.paired([], ["mrr"])
