"""A narrow adapter multiplied into its matrix is PEFT's own, in value and gradient; what cannot be is left alone."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from torch import nn

from siglip_med.models import folded_lora
from siglip_med.models.folded_lora import FoldedLinear

RANK, WIDTH, OUT, TOKENS = 3, 16, 24, 50


@pytest.fixture
def products(monkeypatch):
    """How often one matrix was made of base and adapter."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return addmm(*args, **kwargs)

    addmm = torch.addmm
    monkeypatch.setattr(folded_lora.torch, "addmm", counted)
    return calls


def adapted(kind: type[lora.Linear], width: int = WIDTH, bias: bool = True, **settings) -> nn.Module:
    """One adapted layer whose B is not zero, the same for every kind."""
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=7, target_modules=["0"], **settings)
    config._register_custom_module({nn.Linear: kind})
    model = get_peft_model(nn.Sequential(nn.Linear(width, OUT, bias=bias)), config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter, generator=generator)
    return model


def result(model: nn.Module, width: int = WIDTH) -> list[torch.Tensor]:
    """Output, gradient of the input, and gradients of what is trained."""
    x = torch.randn(2, TOKENS, width, generator=torch.Generator().manual_seed(2)).requires_grad_()
    output = model(x)
    output.float().square().sum().backward()
    return [output.detach(), x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}], ids=["plain", "rslora"])
def test_the_one_product_is_the_three(bias, settings, products):
    theirs = result(adapted(lora.Linear, bias=bias, **settings))
    assert not products
    ours = result(adapted(FoldedLinear, bias=bias, **settings))
    assert len(products) == 1
    assert len(ours) == len(theirs) == 4
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_names_of_weights_are_those_of_peft():
    ours, theirs = (adapted(kind).state_dict() for kind in (FoldedLinear, lora.Linear))
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}])
def test_what_one_matrix_cannot_say_is_left_to_peft(settings, products):
    found = []
    for model in (adapted(FoldedLinear, **settings), adapted(lora.Linear, **settings)):
        torch.manual_seed(3)
        found.append(result(model))
    assert not products
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_dropout_is_no_matter_once_training_is_over(products):
    x = torch.randn(5, WIDTH)
    ours, theirs = (adapted(kind, lora_dropout=0.5).eval()(x) for kind in (FoldedLinear, lora.Linear))
    assert len(products) == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_a_layer_wide_both_ways_is_left_to_peft(products):
    wide = FoldedLinear.widest + 1
    result(adapted(FoldedLinear, width=wide), wide)
    assert len(products) == 1  # its output is narrow
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, target_modules=["0"])
    config._register_custom_module({nn.Linear: FoldedLinear})
    get_peft_model(nn.Sequential(nn.Linear(wide, wide)), config)(torch.randn(2, wide))
    assert len(products) == 1


def test_half_precision_keeps_small_updates(products):
    """In half precision W + s B A would round away what the adapter adds to W."""
    model = adapted(FoldedLinear)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = result(model)
        theirs = result(adapted(lora.Linear))
    assert not products
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_without_adapters_and_merged_it_is_one_plain_layer(products):
    model = adapted(FoldedLinear)
    x = torch.randn(5, WIDTH)
    whole = model(x)
    count = len(products)
    with model.disable_adapter():
        base = model(x)
    assert not torch.allclose(base, whole)
    model.merge_adapter()
    torch.testing.assert_close(model(x), whole, rtol=1e-5, atol=1e-4)
    assert len(products) == count
