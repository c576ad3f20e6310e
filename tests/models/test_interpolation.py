"""Weights between a base and a trained model."""

import pytest
import torch

from siglip_med.core.errors import UserError
from siglip_med.models import Lora, interpolated, siglip
from tests.models.tiny import write_siglip


def effective(model):
    """The weights that the towers compute with: for adapted layers by peft itself, and all else that is trained."""
    adapted = {
        name: module.base_layer.weight + module.get_delta_weight("default")
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert adapted
    rest = {name: value for name, value in model.trainable_state().items() if ".lora_" not in name}
    assert rest
    return {name: value.detach().clone() for name, value in (adapted | rest).items()}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_weight_lies_on_the_line(share, tmp_path):
    model = siglip(str(write_siglip(tmp_path)), adaptation=Lora(rank=2, train_pooling_head=True))
    torch.manual_seed(0)
    base = {name: value.clone() for name, value in model.trainable_state().items()}
    before = effective(model)
    trained = {name: value + 0.1 * torch.randn_like(value) for name, value in base.items()}
    model.load_trainable_state(trained)
    after = effective(model)
    model.load_trainable_state(interpolated(base, trained, share))
    # A was trained too; B is 0 in the base, so what A was there does not matter
    for name, value in effective(model).items():
        torch.testing.assert_close(value, before[name] + share * (after[name] - before[name]), rtol=1e-5, atol=1e-6)
    if share == 1:
        assert all(torch.equal(value, trained[name]) for name, value in interpolated(base, trained, 1.0).items())


def test_dora_is_no_straight_line():
    state = {"layer.lora_magnitude_vector.default.weight": torch.ones(2)}
    with pytest.raises(UserError, match="DoRA"):
        interpolated(state, state, 0.5)
