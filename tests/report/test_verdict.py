"""Verdicts follow from intervals by the rules that they state, whatever the numbers are called."""

from dataclasses import replace

import numpy as np
import pytest

from siglip_med.metrics import Answers, Interval, PairedResult, Predictions, answers
from siglip_med.report.verdict import HARDLY, PROBED, farthest, first_answer, nearness, variety, verdict


def result(difference: float, low: float, high: float) -> PairedResult:
    return PairedResult(difference, low, high, 0.01, 0.02)


def against(r_at_1: PairedResult, distance: PairedResult | None = None) -> dict[str, PairedResult]:
    same = distance or result(0.0, -0.1, 0.1)
    return {"r_at_1": r_at_1, "icd_distance_all": result(0.4, 0.3, 0.5), "icd_distance_top5": same}


GIVEN = Answers(np.array([3, 3, 4]), "Acne", 0.4, 0.35, (), 3)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (result(0.2, 0.1, 0.3), "The model beats a linear probe of the same frozen features (R@1 +0.200 [+0.1"),
        (result(HARDLY, 0.01, 0.1), "The model beats a linear probe"),
        (result(HARDLY - 0.001, 0.001, 0.1), "The model hardly beats a linear probe"),
        (result(0.2, 0.0, 0.4), "It is not shown that the model is better than a linear probe"),
        (result(-0.01, -0.02, 0.0), "It is not shown that the model is better than a linear probe"),
        (result(-0.01, -0.02, -0.001), "The model is worse than a linear probe"),
        (result(0.2, float("nan"), float("nan")), "Against the linear probe: R@1 has no interval here."),
    ],
)  # fmt: skip
def test_a_difference_is_called_what_its_interval_shows(found, said):
    assert first_answer(PROBED, against(found)).startswith(said)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (result(0.2, 0.1, 0.3), "there it beats the linear probe (R@1 +0.200 [+0.1"),
        (result(-0.2, -0.3, -0.1), "there it is worse than the linear probe"),
        (result(0.2, 0.0, 0.3), "there it is not shown to be better than the linear probe"),
        (None, "R@1 is 0.500 [0.400, 0.600], for 0.600 of all."),
    ],
)
def test_the_half_farthest_from_training_is_stated(found, said):
    sentence = farthest(Interval(0.5, 0.4, 0.6), 0.6, 0.84, found)
    assert sentence.startswith(
        "In the half of the test images that look least like training (nearest cosine up to 0.840)"
    )
    assert said in sentence


def test_what_was_not_measured_is_said():
    assert first_answer(PROBED, None) == "Against the linear probe: not measured."


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            result(-0.1, -0.2, -0.01),
            "Its list of five is nearer in ICD-10 than always naming the most frequent condition",
        ),
        (
            result(0.1, 0.01, 0.2),
            "Its list of five is farther in ICD-10 than always naming the most frequent condition",
        ),
        (result(-0.1, -0.2, 0.01), "It is not shown that its list of five is nearer in ICD-10"),
    ],
)
def test_a_list_is_nearer_in_icd_where_its_distance_is_lower(found, said):
    assert nearness(against(result(0.2, 0.1, 0.3), found), 12).startswith(said)


def test_with_five_conditions_the_first_answer_is_judged_since_every_list_is_the_same():
    said = nearness(against(result(0.2, 0.1, 0.3), result(0.0, 0.0, 0.0)), 5)
    assert said.startswith("Its first answer is farther in ICD-10")
    assert "(ICD distance, all predictions +0." in said


def test_the_distance_of_a_list_is_called_by_its_own_name():
    said = nearness(against(result(0.2, 0.1, 0.3), result(-0.1, -0.2, -0.01)), 12)
    assert "(ICD distance, top 5 (AHD@5) -0.100 [-0.200, -0.010], lower is nearer)" in said


@pytest.mark.parametrize(
    ("share", "listed", "said"), [(0.4, 0.2, True), (0.3, 0.2, False), (0.19, 0.01, False), (0.2, 0.1, True)]
)
def test_one_answer_for_everybody_is_said(share, listed, said):
    found = variety(Answers(np.array([1]), "Acne", share, listed, (), 3))
    assert [line.startswith("It answers Acne too often") for line in found] == ([True] if said else [])


def test_conditions_that_are_never_answered_are_counted_and_the_first_are_named():
    found = verdict(None, None, (None, None), Answers(np.array([1]), "Acne", 0.1, 0.1, ("A", "B", "C", "D"), 9), 12)
    assert found[-1] == "It never answers 4 of the 9 conditions of the test: A, B, C and others."


def test_what_is_never_answered_begins_with_what_is_malignant_then_with_what_is_common():
    names, codes = ["Abrasion", "Acne", "Melanoma", "Nevus", "Scar"], ["T14.0", "L70.0", "C43.9", "D22.9", "L90.5"]
    labels = np.eye(5)[[0, 1, 1, 2, 3, 4, 4, 4, 4]]
    found = Predictions.of(np.tile(np.eye(5)[3], (9, 1)), labels)
    found = replace(found, conditions=tuple(names), codes=tuple(codes))
    assert answers(found).never == ("Melanoma", "Scar", "Acne", "Abrasion")
    assert answers(found, ["L70"]).never == ("Acne", "Scar", "Abrasion", "Melanoma")


def test_the_plainest_comparison_comes_first():
    better = against(result(0.2, 0.1, 0.3))
    said = verdict(better, better, (None, better), GIVEN, 12)
    assert [line.split(" (")[0] for line in said] == [
        "The model beats always naming the most frequent condition",
        "It is not shown that its list of five is nearer in ICD-10 than always naming the most frequent condition",
        "The model beats the same base before training",
        "Against the linear probe: not measured.",
        "The model beats a kernel probe of the same frozen features",
    ]
