"""The studies' baselines on kept features, against naive loops."""

import numpy as np
import pytest

from experiments.heads import Bench
from experiments.probe import NEIGHBOURS, nearest_neighbours, nearest_training_image, scores, training_rows
from experiments.tables import NEARNESS
from tests.models.tiny import write_dual
from tests.short_runs import small_settings


@pytest.fixture(scope="module")
def bench(cache, tmp_path_factory):
    towers = write_dual(tmp_path_factory.mktemp("towers"))
    words = ["model=dual_encoder", "model/adaptation=frozen", "features=cached"]
    words += [f"model.{tower}={path}" for tower, path in towers.items()]
    return Bench.build(small_settings(cache, tmp_path_factory.mktemp("bench"), *words))


@pytest.fixture(scope="module")
def cosines(bench):
    ours, theirs = bench.features["test"].numpy(), training_rows(bench)[0]
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (ours.astype(float), theirs.astype(float))]
    return unit[0] @ unit[1].T


def test_neighbours_vote_by_cosine_the_nearer_the_weightier(bench, cosines):
    labels = training_rows(bench)[1]
    distance = np.maximum(1 - cosines, 1e-9)

    def votes(k, image):
        near = np.argsort(distance[image])[:k]
        return np.average(labels[near], axis=0, weights=1 / distance[image, near])

    found = nearest_neighbours(bench)["test"].logits
    naive = [np.array([votes(k, image) for image in range(len(cosines))]) for k in NEIGHBOURS if k <= len(labels)]
    assert min(np.abs(found - one).max() for one in naive) < 1e-2


def test_the_shares_by_nearness_are_those_of_the_sorted_cosines(bench, cosines):
    near = nearest_training_image(bench, "test")
    np.testing.assert_allclose(near, cosines.max(axis=1), atol=1e-5)
    found = nearest_neighbours(bench)["test"]
    whole = scores(found, near)
    first = near <= np.quantile(near, NEARNESS[1])
    assert whole["near_0"] == pytest.approx(scores(found.take(np.flatnonzero(first)))["r_at_1"])
    last = near >= np.quantile(near, NEARNESS[-2])
    assert whole["near_4"] == pytest.approx(scores(found.take(np.flatnonzero(last)))["r_at_1"])
    assert whole["far_r_at_1"] == pytest.approx(scores(found.take(np.flatnonzero(near < np.median(near))))["r_at_1"])
