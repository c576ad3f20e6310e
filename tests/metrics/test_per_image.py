import numpy as np
import pandas as pd
import pytest

from siglip_med.core.outside import csv_text
from siglip_med.metrics import headline_metrics, write_per_image
from siglip_med.metrics.per_image import per_image_table
from tests.metrics.simulated import make_predictions


def test_table_agrees_with_a_reading_by_hand():
    predictions = make_predictions(images=50)
    table = per_image_table(predictions)
    for row in range(50):
        scores = dict(zip(predictions.conditions, predictions.logits[row], strict=True))
        ranking = sorted(scores, key=lambda name: -scores[name])
        positive = {
            name for name, weight in zip(predictions.conditions, predictions.labels[row], strict=True) if weight
        }
        assert set(table["labels"][row].split(" | ")) == positive
        assert table["primary"][row] == predictions.conditions[predictions.primary[row]]
        assert [table[f"top_{place}"][row] for place in range(1, 6)] == ranking[:5]
        assert table["rank_any"][row] == 1 + min(ranking.index(name) for name in positive)
        assert table["rank_primary"][row] == 1 + ranking.index(table["primary"][row])
        assert table["confidence_1"][row] == pytest.approx(1 / (1 + np.exp(-scores[ranking[0]])), rel=1e-5)


def test_csv_gives_the_headline_back(tmp_path):
    predictions = make_predictions()
    table = pd.read_csv(write_per_image(predictions, tmp_path / "test"), dtype={"image_id": str})
    assert [path.name for path in (tmp_path / "test").iterdir()] == ["per_image.csv"]
    metrics = headline_metrics(predictions)
    assert table["hit_at_1"].mean() == pytest.approx(metrics["r_at_1"])
    assert (table["rank_any"] <= 5).mean() == pytest.approx(metrics["r_at_5"])
    assert table["icd_distance"].mean() == pytest.approx(metrics["icd_distance_all"])
    assert csv_text(table["image_id"][0]) == "-00000"


def test_fewer_conditions_than_places():
    assert "top_4" not in per_image_table(make_predictions(conditions=3))
