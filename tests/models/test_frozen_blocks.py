"""Frozen first blocks: resuming from their output is the whole tower, for every family."""

import pytest
import torch
from peft.tuners.lora import LoraLayer

from siglip_med.core.errors import UserError
from siglip_med.models import Lora, TwoTower
from siglip_med.models.frozen_blocks import replaced_forwards
from tests.models import runs, tiny

BLOCKS = 3


@pytest.fixture(scope="module", params=runs.KINDS)
def model(request, tmp_path_factory, module_monkeypatch) -> TwoTower:
    module_monkeypatch.setattr(tiny, "LAYERS", BLOCKS)
    for settings in (tiny._TEXT, tiny._VISION):
        module_monkeypatch.setitem(settings, "num_hidden_layers", BLOCKS)
    node = runs.model_node(request.param, tmp_path_factory.mktemp(request.param))
    node["adaptation"] = {"_target_": "siglip_med.models.Lora", "rank": 2, "first_block": 2, "dropout": 0.0}
    model = runs.build(node)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def module_monkeypatch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_only_later_blocks_get_adapters(model):
    names = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    assert names
    assert all(".2." in name for name in names)
    assert {model.component_of(name) for name, parameter in model.named_parameters() if ".lora_" in name} == {
        "vision",
        "text",
    }


def test_images_and_texts_go_on_from_their_states_with_the_same_embeddings_and_gradients(model):
    model.train()
    images, tokens = runs.images(), model.tokenize(runs.TEXTS)
    results = []
    for kept in (False, True):
        model.zero_grad()
        torch.manual_seed(0)  # BERT's later blocks have dropout
        image = model.encode_images(model.image_states(images) if kept else images)
        torch.manual_seed(1)
        text = model.encode_texts(**tokens, states=model.text_states(**tokens) if kept else None)
        (image.square().sum() + text.square().sum()).backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append([image, text, *gradients])
    assert len(results[0]) > 4
    for whole, resumed in zip(*results, strict=True):
        torch.testing.assert_close(resumed, whole, atol=1e-5, rtol=1e-4)


def test_states_do_not_change_when_the_adapters_do(model):
    before = model.image_states(runs.images())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.add_(0.1)
    assert torch.equal(model.image_states(runs.images()), before)


def test_frozen_blocks_have_no_dropout_and_the_library_is_left_as_it_was(model):
    model.train()
    with pytest.raises(RuntimeError):
        model.encode_images(torch.zeros(1, 2, 3))  # states of another size: an error must not leave a tower patched
    one, other = (model.text_states(**model.tokenize(runs.TEXTS)) for _ in range(2))
    assert torch.equal(one, other)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_block_that_is_not_there_and_a_tower_without_adapters_are_named(tmp_path):
    node = runs.model_node(runs.KINDS[0], tmp_path)
    node["adaptation"] = {"_target_": "siglip_med.models.Lora", "first_block": {"vision": 7}}
    with pytest.raises(Exception, match=r"no q_proj in the encoder layers of .* from block 7 on|tower has"):
        runs.build(node)
    with pytest.raises(UserError, match=r"first_block\.text: that tower gets no adapters"):
        Lora(towers="vision", first_block={"text": 1})


def test_what_is_kept_costs_nothing_and_the_rest_counts_weights_times_tokens(model):
    counted = sum(
        p.numel() for name, p in model.named_parameters() if ".2." in name and model.component_of(name) == "text"
    )
    assert model.cost("text") == counted * model.max_text_length
    assert model.cost("vision") > 0


def test_replaced_forwards_may_be_nested():
    layer = torch.nn.Identity()
    x = torch.ones(1)
    with replaced_forwards({layer: lambda y: y + 1}):
        with replaced_forwards({layer: lambda y: y + 2}):
            assert layer(x) == 3
        assert layer(x) == 2
    assert layer(x) == 1
