"""Test images by how alike the nearest training image looks."""

from dataclasses import replace

import numpy as np
import pytest

from siglip_med.metrics import Predictions, subgroup_metrics
from siglip_med.metrics.nearness import far_half_metrics
from siglip_med.metrics.subgroups import NEARNESS

SCORES = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
NEAREST = np.array([0.2, 0.1, 0.9, 0.3, 0.6, 0.7, 0.5, 0.95], dtype=np.float32)


@pytest.fixture
def predictions() -> Predictions:
    return replace(Predictions.of(SCORES, [[1, 0]] * 8), nearest=NEAREST)


def test_the_far_half_is_below_the_median(predictions):
    assert far_half_metrics(predictions) == {"far_half_r_at_1": 0.5, "far_half_mrr": 0.75}
    assert far_half_metrics(replace(predictions, nearest=NEAREST[:0])) == {}
    assert far_half_metrics(replace(predictions, nearest=np.ones(8)))["far_half_r_at_1"] == 0.75


def test_quarters_are_groups_of_the_report(predictions):
    table = subgroup_metrics(predictions, [NEARNESS], ["r_at_1"])
    assert table["group"].tolist() == [
        "cosine 0.100 to 0.200", "cosine 0.300 to 0.500", "cosine 0.600 to 0.700", "cosine 0.900 to 0.950",
    ]  # fmt: skip
    assert table["r_at_1"].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert table["images"].tolist() == [2, 2, 2, 2]
    alike = subgroup_metrics(replace(predictions, nearest=np.ones(8)), [NEARNESS], ["r_at_1"])
    assert alike["images"].tolist() == [8]
    unknown = subgroup_metrics(replace(predictions, nearest=NEAREST[:0]), [NEARNESS], ["r_at_1"])
    assert unknown["group"].tolist() == ["unknown"]


def test_nearness_is_saved_taken_and_checked(predictions, tmp_path):
    predictions.save(tmp_path / "a")
    assert Predictions.load(tmp_path / "a").nearest.tolist() == NEAREST.tolist()
    assert predictions.take(np.array([3, 0])).nearest.tolist() == NEAREST[[3, 0]].tolist()
    replace(predictions, nearest=NEAREST[:0]).save(tmp_path / "b")
    assert Predictions.load(tmp_path / "b").nearest.shape == (0,)
    with pytest.raises(ValueError, match=r"nearest has shape \(3,\)"):
        replace(predictions, nearest=NEAREST[:3])
