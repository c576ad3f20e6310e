"""The logit scale and bias: start, range, training."""

import math

import pytest
import torch

from siglip_med.core.errors import UserError
from siglip_med.models import Logits
from tests.models import runs


def test_the_base_models_values_are_kept(tmp_path):
    model = runs.build(runs.model_node("siglip", tmp_path))
    assert model.logit_scale.item() == pytest.approx(2.5)
    assert model.logit_bias.item() == pytest.approx(-4.0)


def test_clip_starts_without_a_bias_and_a_dual_encoder_where_siglip_started(tmp_path):
    clip = runs.build(runs.model_node("clip", tmp_path / "clip"))
    dual = runs.build(runs.model_node("dual_encoder", tmp_path / "dual"))
    assert clip.logit_bias.item() == 0
    assert (dual.logit_scale.exp().item(), dual.logit_bias.item()) == pytest.approx((10, -10))


def test_settings_override_the_base():
    scale, bias = Logits(scale=20.0, bias=-3.0, train_bias=False).parameters(117.0, -12.9)
    assert scale.item() == pytest.approx(math.log(20))
    assert bias.item() == -3
    assert scale.requires_grad
    assert not bias.requires_grad
    assert scale.dtype == bias.dtype == torch.float32


def test_siglips_own_values_lie_in_the_default_range():
    Logits().parameters(117.33, -12.93)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scale_range": (1.0, 100.0)}, r"logit scale of 117.3, outside model.logits.scale_range=\[1.0, 100.0\]"),
        ({"bias": -31.0}, "logit bias of -31"),
        ({"bias_range": (5.0, -5.0)}, "give the lowest and the highest value"),
        ({"scale_range": (0.0, 200.0)}, "a multiplier is positive"),
    ],
)
def test_values_outside_the_range_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        Logits(**settings).parameters(117.33, -12.93)


def test_clamping_puts_both_back_and_leaves_values_inside_alone(tmp_path):
    node = runs.model_node("siglip", tmp_path)
    logits = {"_target_": "siglip_med.models.Logits", "scale_range": [2.0, 50.0], "bias_range": [-5.0, 1.0]}
    model = runs.build({**node, "logits": logits})
    for scale, bias, expected in ((9.0, 3.0, (50, 1)), (-4.0, -8.0, (2, -5)), (math.log(7), -2.0, (7, -2))):
        with torch.no_grad():
            model.logit_scale.fill_(scale)
            model.logit_bias.fill_(bias)
        model.clamp_logits()
        assert (model.logit_scale.exp().item(), model.logit_bias.item()) == pytest.approx(expected, rel=1e-5)
