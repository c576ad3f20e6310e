"""Predictions of several models as those of one, against loops; what may not differ is named."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siglip_med.core.case_pooling import average_logits
from siglip_med.core.errors import UserError
from siglip_med.metrics import Calibration, join_predictions
from tests.report.synthetic_run import synthetic_predictions

SKILLS = {"a": 2.0, "b": 1.0, "c": 0.5}
BY = (Calibration(2.0, 0.25), Calibration(1.0, 0.0), Calibration(0.5, -1.0))


def members(**changes):
    """Three judgments of the same images; those of b are in another order."""
    found = {}
    for number, (name, skill) in enumerate(SKILLS.items()):
        rng = np.random.default_rng(number)
        one = synthetic_predictions(images=20, conditions=6, skill=skill)
        p = rng.random(20).astype(np.float32)
        found[name] = replace(one, familiarity=p, nearest=np.full(20, 0.5, np.float32))
    found["b"] = found["b"].take(np.arange(20)[::-1])
    return found | {name: change(found[name]) for name, change in changes.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("average", ["mean_logit", "mean_probability"])
def test_logits_and_the_rest_are_the_means_of_a_loop(average):
    given = members()
    joined = join_predictions(given, BY, average)
    for row, image in enumerate(given["a"].frame["image"]):
        at = {name: one.frame["image"].tolist().index(image) for name, one in given.items()}
        assert joined.frame["image"][row] == image
        for column in range(6):
            z = [
                given[name].logits[at[name], column] / by.temperature + by.bias
                for name, by in zip(given, BY, strict=True)
            ]
            if average == "mean_logit":
                expected = sum(z) / 3
            else:
                p = sum(map(sigmoid, z)) / 3
                expected = np.log(p / (1 - p))
            assert joined.logits[row, column] == pytest.approx(expected, abs=1e-5)
        assert joined.familiarity[row] == pytest.approx(np.mean([given[n].familiarity[at[n]] for n in given]))
        cosines = [given[n].image_embeddings[at[n]] @ given[n].text_embeddings[2] for n in given]
        assert joined.image_embeddings[row] @ joined.text_embeddings[2] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert joined.meta["scores"] == f"{average} of 3 models: a, b, c"
    assert (joined.nearest == 0.5).all()
    np.testing.assert_array_equal(joined.labels, given["a"].labels)


def test_what_the_members_do_not_all_know_is_left_out():
    given = members(
        b=lambda one: replace(one, nearest=one.nearest + 0.1),
        c=lambda one: replace(one, familiarity=one.familiarity[:0], image_embeddings=one.image_embeddings[:0]),
    )
    given["a"].meta["look_alikes"] = "2 of 20"
    joined = join_predictions(given, BY)
    assert [len(part) for part in (joined.nearest, joined.familiarity, joined.image_embeddings)] == [0, 0, 0]
    assert "look_alikes" not in joined.meta


CHANGES = {
    "conditions": lambda one: replace(one, conditions=("another", *one.conditions[1:])),
    r"different images \(first that only one of them has: '.*'\): .*data\.split_file=": lambda one: one.take(
        np.arange(19)
    ),
    "different labels": lambda one: replace(one, labels=np.ones_like(one.labels)),
    "codes": lambda one: replace(one, codes=("B00", *one.codes[1:])),
    "label weights": lambda one: replace(one, labels=one.labels * np.float32(0.5)),
    "cases": lambda one: replace(one, frame=one.frame.assign(case=one.frame["image"])),
    "dissimilarities D": lambda one: replace(one, dissimilarity=1.0 - np.eye(6)),
    "training images per condition": lambda one: replace(one, train_counts=one.train_counts + 1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_members_that_differ_are_named_with_what_differs(what):
    with pytest.raises(UserError, match=rf"^ensemble: c and a: .*{what}") as refused:
        join_predictions(members(c=CHANGES[what]), BY)
    assert "\n" not in str(refused.value)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1), st.sampled_from(["mean_logit", "mean_probability"])
)
def test_an_average_lies_between_the_members_and_knows_no_order(models, conditions, seed, how):
    logits = list(np.random.default_rng(seed).normal(0, 9, (models, 7, conditions)))
    found = average_logits(logits, how)
    assert (found <= np.max(logits, axis=0) + 1e-9).all()
    assert (found >= np.min(logits, axis=0) - 1e-9).all()
    np.testing.assert_allclose(average_logits(logits[::-1], how), found, atol=1e-9)
    np.testing.assert_allclose(average_logits(logits[:1] * 3, how), logits[0], atol=1e-9)
