"""Yes or no: thresholds of validation, what they reach, and net benefit, beside scikit-learn, SciPy and hand work."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from siglip_med.metrics import (
    RISKS,
    Bootstrap,
    Calibration,
    YesNo,
    auc_intervals,
    decision_curve,
    malignant,
    malignant_question,
    operating_points,
)
from siglip_med.metrics.operating_points import threshold_at
from tests.metrics.simulated import make_predictions

POINTS = [("specificity", 0.9), ("sensitivity", 0.95)]
FEW = Bootstrap(100)


def question(seed=0, images=300, share=0.3, lift=1.5, levels=None, cases=120):
    rng = np.random.default_rng(seed)
    positive = rng.random((images, 1)) < share
    scores = rng.standard_normal((images, 1)) + lift * positive
    if levels is not None:  # ties
        scores = np.round(scores * levels) / levels
    return YesNo(scores, positive, rng.integers(cases, size=images).astype(str))


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.999])
def test_a_threshold_is_the_best_of_all_of_scikit_learns(share, levels):
    for seed in range(5):
        asked = question(seed, 80, levels=levels)
        scores, positive = asked.scores[:, 0], asked.positive[:, 0]
        false_alarms, found, _ = roc_curve(positive, scores, drop_intermediate=False)
        called = scores >= threshold_at(scores, positive, "specificity", share)
        assert (~called[~positive]).mean() >= share
        assert called[positive].mean() == pytest.approx(found[1 - false_alarms >= share - 1e-9].max())
        called = scores >= threshold_at(scores, positive, "sensitivity", share)
        assert called[positive].mean() >= share
        assert (~called[~positive]).mean() == pytest.approx((1 - false_alarms[found >= share - 1e-9]).max())


def test_thresholds_are_of_validation_and_values_of_the_test_split():
    val, test = question(1), question(2)
    for point in operating_points(val, test, POINTS, 10, FEW)[0]:
        assert point.threshold == threshold_at(val.scores[:, 0], val.positive[:, 0], point.fixed, point.share)
        called = test.scores[:, 0] >= point.threshold
        tn, fp, fn, tp = confusion_matrix(test.positive[:, 0], called).ravel()
        expected = {
            "sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp), "ppv": tp / (tp + fp), "npv": tn / (tn + fn)
        }  # fmt: skip
        for name, value in expected.items():
            assert point.reached[name].estimate == pytest.approx(value), name
    other = operating_points(val, replace(test, scores=test.scores + 3), POINTS, 10, FEW)[0]
    assert [p.threshold for p in other] == [p.threshold for p in operating_points(val, test, POINTS, 10, FEW)[0]]


def test_an_interval_resamples_cases():
    val, test = question(1), question(2, cases=40)
    point = operating_points(val, test, POINTS, 5, Bootstrap(300, seed=3))[0][0]
    called, rng, values = test.scores[:, 0] >= point.threshold, np.random.default_rng(3), []
    names = np.unique(test.cases)
    rows = {name: np.flatnonzero(test.cases == name) for name in names}
    for _ in range(300):
        drawn = np.concatenate([rows[names[i]] for i in rng.integers(len(names), size=len(names))])
        values.append(called[drawn][test.positive[drawn, 0]].mean())
    low, high = np.quantile(values, [0.025, 0.975])
    found = point.reached["sensitivity"]
    assert (found.low, found.high) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))
    twice = YesNo(*(np.concatenate([part, part]) for part in (test.scores, test.positive, test.cases)))
    again = operating_points(val, twice, POINTS, 5, Bootstrap(300, seed=3))[0][0].reached["sensitivity"]
    assert (again.low, again.high) == (pytest.approx(found.low), pytest.approx(found.high))  # no more witnesses


def test_where_all_are_right_the_interval_is_the_exact_one_of_the_cases():
    test = YesNo(np.array([[9.0]] * 24 + [[-9.0]] * 20), np.array([[True]] * 24 + [[False]] * 20), np.arange(44) // 2)
    point = operating_points(question(1), test, POINTS[:1], 5, FEW)[0][0]
    assert point.reached["sensitivity"].estimate == point.reached["sensitivity"].high == 1.0
    assert point.reached["sensitivity"].low == pytest.approx(beta.ppf(0.025, 12, 1))  # 12 cases, 24 images
    assert point.reached["npv"].low == pytest.approx(beta.ppf(0.025, 10, 1))


def test_a_small_group_gives_nothing_and_never_zero():
    val, test = question(1), question(2)

    def found(val, test, smallest=10):
        return [
            (np.isfinite(p.threshold), *(np.isfinite(p.reached[n].estimate) for n in p.reached))
            for p in operating_points(val, test, POINTS, smallest, FEW)[0]
        ]

    def few(asked, kind, kept):
        drop = np.flatnonzero(asked.positive[:, 0] == kind)[kept:]
        keep = np.setdiff1d(np.arange(len(asked.cases)), drop)
        own = np.arange(len(keep)).astype(str)
        return YesNo(asked.scores[keep], asked.positive[keep], own)

    assert found(val, test) == [(True,) * 5] * 2
    assert found(few(val, True, 9), test) == [(True,) * 5, (False,) * 5]  # no positive to fix a sensitivity on
    assert found(few(val, False, 9), test) == [(False,) * 5, (True,) * 5]
    assert found(few(val, True, 10), test) == [(True,) * 5] * 2
    assert found(val, few(test, True, 9)) == [(True, False, True, False, False)] * 2
    assert found(val, few(test, False, 0)) == [(True, True, False, False, False)] * 2
    assert not np.isfinite(auc_intervals(few(test, True, 9), 10, FEW)[0].estimate)
    crowd = replace(few(test, True, 40), cases=np.where(few(test, True, 40).positive[:, 0], "one", "many"))
    assert not np.isfinite(auc_intervals(crowd, 2, FEW)[0].estimate)  # images of one case are one witness


def test_areas_of_all_conditions_against_scikit_learn():
    test = YesNo.of_conditions(make_predictions(conditions=6))
    for k, found in enumerate(auc_intervals(test, 5, FEW)):
        assert found.estimate == pytest.approx(roc_auc_score(test.positive[:, k], test.scores[:, k]))
        assert found.low < found.estimate < found.high
    certain = auc_intervals(question(0, lift=99), 5, FEW)[0]
    assert certain.estimate == 1.0
    assert np.isnan([certain.low, certain.high]).all()


def test_many_questions_are_each_answered_as_alone():
    val, test = (YesNo.of_conditions(make_predictions(seed, conditions=5)) for seed in (0, 1))
    together = operating_points(val, test, POINTS, 5, FEW)
    for k in range(5):
        alone = [YesNo(one.scores[:, [k]], one.positive[:, [k]], one.cases) for one in (val, test)]
        assert operating_points(*alone, POINTS, 5, FEW)[0] == together[k]


def test_malignant_by_code_and_the_score_is_the_sum_of_probabilities():
    codes = ["C43.9", "C44.91", "C4A.9", "D03.9", "D04.9", "D22.9", "L57.0", "C84.00", "", "C43-C44"]
    assert malignant(codes).tolist() == [True] * 5 + [False] * 4 + [True]
    predictions, columns = make_predictions(conditions=6), np.array([False, True, False, True, False, False])
    asked = malignant_question(predictions, Calibration(2.0, 0.5), columns)
    total = expit(predictions.logits / 2 + 0.5)[:, columns].sum(axis=1)
    np.testing.assert_allclose(np.exp(asked.scores[:, 0]), total, rtol=1e-5)
    assert asked.positive[:, 0].tolist() == [bool(row[1] or row[3]) for row in predictions.labels]


def test_net_benefit_worked_by_hand():
    # probabilities .9 .6 .25 | .7 .1 of three malignant and two benign images; at pt = .5 the odds are 1:
    # TP 2, FP 1: 2/5 - 1/5 = .2; everybody 3/5 - 2/5 = .2; at pt = .2, odds 1/4: TP 3, FP 1: 3/5 - 1/20 = .55
    probability = np.array([0.9, 0.6, 0.25, 0.7, 0.1])
    positive = np.array([[True], [True], [True], [False], [False]])
    test = YesNo(np.log(probability / (1 - probability))[:, None], positive, np.arange(5))
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, 40_000)  # calibrated: the fit is the identity
    val = YesNo(scores[:, None], rng.random((40_000, 1)) < expit(scores)[:, None], np.arange(40_000))
    curve = decision_curve(val, test, FEW)
    assert curve.model[49].estimate == pytest.approx(0.2)
    assert curve.everybody[49].estimate == pytest.approx(0.2)
    assert curve.model[19].estimate == pytest.approx(0.55)
    assert curve.everybody[19].estimate == pytest.approx(3 / 5 - 2 / 5 / 4)


def test_a_decision_curve_beside_a_loop_and_another_logistic_fit():
    val, test = question(4, 500, 0.2), question(5, 400, 0.2)
    curve = decision_curve(val, test, Bootstrap(400))
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(val.scores, val.positive[:, 0])
    probability = model.predict_proba(test.scores)[:, 1]
    for place in (0, 4, 9, 29, 49):
        risk, benefit = RISKS[place], 0.0
        for p, truth in zip(probability, test.positive[:, 0], strict=True):
            if p >= risk:
                benefit += 1.0 if truth else -risk / (1 - risk)
        assert curve.model[place].estimate == pytest.approx(benefit / 400, abs=1e-3)
        assert curve.model[place].low <= curve.model[place].estimate <= curve.model[place].high
    assert curve.everybody[9].high > curve.everybody[9].low
    for gain, model, everybody in zip(curve.gain, curve.model, curve.everybody, strict=True):
        assert gain.estimate == pytest.approx(model.estimate - everybody.estimate)
    wide = curve.model[9].high - curve.everybody[9].low - (curve.model[9].low - curve.everybody[9].high)
    assert curve.gain[9].high - curve.gain[9].low < wide  # paired: the same cases for both
