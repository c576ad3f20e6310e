"""What is trained in each mode, and that adapters lie only where they run."""

import re

import peft
import pytest
import torch
from peft import PeftModel

from siglip_med.core.errors import UserError
from siglip_med.models import Frozen, FullFineTune, Lora, TwoTower, check_gradients
from siglip_med.models.adaptation import TARGETS
from tests.models import runs, tiny


def adapted_layers(model: TwoTower) -> set[str]:
    """Names of the linear layers with an adapter, without the wrapping."""
    return {
        name.partition(".lora_")[0].removeprefix("backbones.").replace("base_model.model.", "")
        for name, _ in model.named_parameters()
        if ".lora_" in name
    }


@pytest.mark.parametrize("kind", runs.KINDS)
def test_lora_covers_six_layers_of_each_encoder_block_and_all_learn(kind, tmp_path):
    model = runs.build(runs.model_node(kind, tmp_path))
    layers = adapted_layers(model)
    assert len(layers) == 2 * tiny.LAYERS * 6
    assert all(re.search(r"\.layers?\.\d+\.", name) for name in layers)
    assert not [name for name in layers if "head" in name or "pooler" in name]
    runs.scores(model).square().sum().backward()
    check_gradients(model)


@pytest.mark.parametrize("kind", runs.KINDS)
@pytest.mark.parametrize("mode", ["FullFineTune", "Frozen"])
def test_other_modes_have_no_dead_parameter(kind, mode, tmp_path):
    model = runs.build(runs.model_node(kind, tmp_path, {"_target_": f"siglip_med.models.{mode}"}))
    runs.scores(model).square().sum().backward()
    check_gradients(model)
    assert model.vision_is_frozen == (mode == "Frozen")


def test_adapters_by_suffix_would_reach_a_layer_that_never_runs(tmp_path):
    """The trap that the anchored pattern avoids: the check must see it."""
    model = runs.build(runs.model_node("siglip", tmp_path, {"_target_": "siglip_med.models.Frozen"}))
    wrapped = peft.get_peft_model(model.pretrained("model"), peft.LoraConfig(r=2, target_modules=["out_proj"]))
    assert isinstance(wrapped, PeftModel)
    runs.scores(model).sum().backward()
    with pytest.raises(UserError, match=r"head\.attention\.out_proj\.lora_A"):
        check_gradients(model)


@pytest.mark.parametrize(("towers", "count"), [("vision", 6), ("text", 6), ("both", 12)])
def test_towers_choose_where_adapters_go(towers, count, tmp_path):
    model = runs.build(runs.model_node("siglip", tmp_path, {**runs.LORA, "towers": towers}))
    layers = adapted_layers(model)
    assert len(layers) == count * tiny.LAYERS
    assert model.vision_is_frozen == (towers == "text")


def test_target_modules_choose_layers_in_every_spelling(tmp_path):
    adaptation = {**runs.LORA, "target_modules": ["q_proj", "fc2"]}
    model = runs.build(runs.model_node("dual_encoder", tmp_path, adaptation))
    leaves = {re.sub(r"^(vision|text)\.encoder\.layer\.\d+\.", "", name) for name in adapted_layers(model)}
    assert leaves == {"attention.q_proj", "mlp.fc2", "attention.self.query", "output.dense"}


def test_pooling_head_and_projection_train_on_request(tmp_path):
    node = runs.model_node("siglip", tmp_path)
    plain = runs.build(node)
    more = runs.build({**node, "adaptation": {**runs.LORA, "train_pooling_head": True, "train_projection": True}})
    added = more.trainable_state().keys() - plain.trainable_state().keys()
    assert {name.replace("backbones.model.base_model.model.", "").split(".")[0:2][1] for name in added} == {"head"}
    assert any(name.endswith("head.probe") for name in added)
    assert any(name.endswith("text_model.head.weight") for name in added)
    runs.scores(more).square().sum().backward()
    check_gradients(more)


def test_scaling_follows_alpha_over_rank_and_over_its_root(tmp_path):
    node = runs.model_node("siglip", tmp_path)
    for settings, expected in (({"use_rslora": False}, 12 / 4), ({"use_rslora": True}, 12 / 2)):
        adaptation = {"_target_": "siglip_med.models.Lora", "rank": 4, "alpha": 12, **settings}
        model = runs.build({**node, "adaptation": adaptation})
        layer = model.pretrained("model").text_model.encoder.layers[0].mlp.fc1
        assert layer.scaling["default"] == expected


def test_dora_trains_a_magnitude_for_each_output(tmp_path):
    model = runs.build(runs.model_node("siglip", tmp_path, {**runs.LORA, "use_dora": True}))
    magnitudes = [value for name, value in model.trainable_state().items() if "magnitude" in name]
    assert len(magnitudes) == 2 * tiny.LAYERS * 6
    assert all(value.ndim == 1 for value in magnitudes)


def test_layers_of_an_unknown_kind_are_named():
    with pytest.raises(UserError, match="no q_proj in the encoder layers of Sequential"):
        Lora().wrap(torch.nn.Sequential(torch.nn.Linear(2, 2)), {"vision": ""})


def test_modes_say_what_they_train():
    assert [Lora(towers="text").trains_encoder(tower) for tower in ("vision", "text")] == [False, True]
    assert FullFineTune().trains_encoder("vision")
    assert not Frozen().trains_encoder("text")
    assert len(TARGETS) == 6
