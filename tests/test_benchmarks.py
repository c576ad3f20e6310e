"""Smoke tests: benchmarks that no other test calls still run. What they say is for a quiet machine."""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = str(Path(__file__).resolve().parents[1] / "benchmarks")


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    """They are scripts, and import each other as such."""
    monkeypatch.setattr(sys, "path", [BENCHMARKS, *sys.path])


def test_every_line_of_the_losses_has_a_gradient():
    from benchmarks.losses import batch_maker, parts

    make = batch_maker(8, 66, 16, "cpu")
    for name, part in parts().items():
        value = part(make())
        assert value.requires_grad, name
        assert torch.isfinite(value), name
        value.backward()


def test_an_adapter_folds_at_any_width_there():
    from benchmarks.narrow_adapters import measure

    ratio = measure(384, 4, blocks=1)
    assert 0 < ratio.low <= ratio.median <= ratio.high


def test_the_loss_with_many_conditions_has_a_cost():
    from benchmarks.conditions import loss_names, measure

    assert {"layered", "published", "softmax"} <= set(loss_names())
    cost = measure("layered", images=4, conditions=30, repeats=1)
    assert cost.milliseconds > 0
    assert cost.megabytes > 0


def test_an_ensemble_of_one_model_is_that_model_calibrated():
    from benchmarks.ensembles import together
    from siglip_med.metrics import fit_calibration
    from tests.report.synthetic_run import synthetic_predictions

    val, test = (synthetic_predictions(images=40, split=split) for split in ("val", "test"))
    found = together([[val, test]])[1]
    assert found.logits == pytest.approx(fit_calibration(val).apply(test).logits, abs=1e-4)
    assert together([[val, test, val, test]])[1].logits == pytest.approx(found.logits, abs=1e-4)
