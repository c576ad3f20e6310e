"""Compiled blocks and the memory layout: they change how fast a step is, and nothing that a file holds."""

from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from siglip_med.core.errors import UserError
from siglip_med.models import Lora, siglip
from siglip_med.training.acceleration import ChannelsLast, CompileBlocks
from siglip_med.training.trainer import build_trainer
from tests.models import tiny
from tests.training.test_module import fit, module_of


class Watch(pl.Callback):
    """Notes the names that a checkpoint would hold, inside a step."""

    def on_train_batch_end(self, trainer, pl_module, *given):
        self.names = list(pl_module.model.trainable_state())
        self.compiled = [module for module in pl_module.modules() if module._compiled_call_impl is not None]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_train_the_same_weights_under_the_same_names(tmp_path, checkpointing):
    states, watched = {}, {}
    for backend in (None, "eager"):
        torch.manual_seed(1)
        adaptation = Lora(dropout=0.0 if checkpointing else 0.05)
        model = siglip(str(tiny.write_siglip(tmp_path)), gradient_checkpointing=checkpointing, adaptation=adaptation)
        counters.clear()
        watched[backend] = Watch()
        fit(module_of(model, 1e-3), 3, *([CompileBlocks(backend)] if backend else []), watched[backend])
        states[backend] = model.trainable_state()
        assert not any(module._compiled_call_impl for module in model.modules()), "training is over"
    assert counters["stats"]["unique_graphs"] > 0, "something was compiled"
    blocks = [*model.towers()["vision"].encoder.layers, *model.towers()["text"].encoder.layers]
    assert set(watched["eager"].compiled) == set(blocks)
    assert not watched[None].compiled
    assert watched["eager"].names == watched[None].names == list(states[None])
    assert all(torch.allclose(value, states["eager"][name], atol=1e-6) for name, value in states[None].items())


def test_a_tower_without_blocks_is_refused():
    module = SimpleNamespace(model=SimpleNamespace(towers=lambda: {"vision": nn.Linear(2, 2)}))
    with pytest.raises(UserError, match=r"trainer\.compile: the vision tower, Linear, has no list of encoder blocks"):
        CompileBlocks("eager").on_fit_start(None, module)


def test_dropout_that_would_be_drawn_again_is_refused(tmp_path):
    model = siglip(str(tiny.write_siglip(tmp_path)), gradient_checkpointing=True)
    with pytest.raises(UserError, match=r"other dropout masks .* set model\.adaptation\.dropout=0"):
        CompileBlocks("eager").on_fit_start(None, SimpleNamespace(model=model))


def convolutional(*layers):
    tower = nn.Sequential(*layers)
    return SimpleNamespace(model=SimpleNamespace(vision_tower=lambda: tower)), tower


def test_convolutions_keep_their_channels_last_while_training_and_give_the_same():
    module, tower = convolutional(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    images = torch.randn(2, 3, 9, 9)
    before = tower(images)
    ChannelsLast().on_fit_start(None, module)
    assert tower[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert tower(images).is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(tower(images), before, atol=1e-6)
    ChannelsLast().on_fit_end(None, module)
    assert tower[1].weight.is_contiguous()


def test_a_tower_that_only_cuts_patches_is_refused():
    module, _ = convolutional(nn.Conv2d(3, 4, 3), nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"trainer\.channels_last: Sequential has no convolutions but"):
        ChannelsLast().on_fit_start(None, module)


def test_the_trainer_has_the_switches(tmp_path):
    def callbacks(**switches):
        trainer = build_trainer(None, None, str(tmp_path), accelerator="cpu", enable_progress_bar=False, **switches)
        return trainer.callbacks

    before = torch.get_float32_matmul_precision()
    try:
        found = callbacks(compile=True, compile_backend="aot_eager", channels_last=True, matmul_precision="high")
        assert [one.backend for one in found if isinstance(one, CompileBlocks)] == ["aot_eager"]
        assert any(isinstance(one, ChannelsLast) for one in found)
        assert torch.get_float32_matmul_precision() == "high"
        assert not any(isinstance(one, CompileBlocks | ChannelsLast) for one in callbacks())
        assert torch.get_float32_matmul_precision() == "highest", "the default is said anew, too"
    finally:
        torch.set_float32_matmul_precision(before)


def test_attention_is_the_fused_kernel_in_every_family(tmp_path):
    model = siglip(str(tiny.write_siglip(tmp_path)))
    assert {tower.config._attn_implementation for tower in model.towers().values()} == {"sdpa"}
