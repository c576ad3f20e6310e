"""The learning rate, against the library's own cosine."""

import pytest
import torch
from lightning.fabric.plugins.precision.amp import _optimizer_handles_unscaling
from torch.optim.lr_scheduler import CosineAnnealingLR

from siglip_med.training.optim import AdamW


def test_the_rate_rises_linearly_then_falls_as_the_librarys_cosine():
    settings = AdamW(warmup=0.1, final=0.0)
    factors = [settings.factor(step, 200) for step in range(200)]
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = CosineAnnealingLR(reference, T_max=180)
    for factor in factors[20:]:
        assert factor == pytest.approx(reference.param_groups[0]["lr"], abs=1e-9)
        reference.step()
        cosine.step()


def test_the_rate_ends_at_the_final_share_and_stays_there():
    settings = AdamW(warmup=0.0, final=0.25)
    assert settings.factor(100, 100) == pytest.approx(0.25)
    assert settings.factor(150, 100) == pytest.approx(0.25)


class Towers:
    logit_scale = torch.zeros(())
    weight, scale = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(()))
    head = torch.nn.Parameter(torch.ones(2, 2))

    def parameter_groups(self, learning_rate, weight_decay, scale_learning_rate, head_learning_rate):
        return [
            {"params": [self.weight], "lr": learning_rate, "weight_decay": weight_decay},
            {"params": [self.head], "lr": head_learning_rate, "weight_decay": weight_decay},
            {"params": [self.scale], "lr": scale_learning_rate, "weight_decay": 0.0},
        ]


def test_each_group_follows_the_schedule_from_its_own_peak():
    optimizer, schedule = AdamW(1e-2, head_learning_rate=4e-2, scale_learning_rate=1e-3, warmup=0.5).build(Towers(), 4)
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx([0.005, 0.02, 0.0005])
    assert rates[1] == pytest.approx([0.01, 0.04, 0.001])
    assert rates[3] == pytest.approx([0.005, 0.02, 0.0005])


def fitted(fused, **settings):
    """A small layer after five updates under a gradient scaler, clipped as Lightning clips: unscaled first."""
    torch.manual_seed(3)
    layer = torch.nn.Linear(5, 3)
    optimizer, _ = AdamW(1e-2, warmup=0.0, fused=fused, **settings).build(Model(layer), 5)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    norms = []
    for step in range(5):
        inputs = torch.randn(7, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        scaler.scale(100 * layer(inputs).square().mean()).backward()
        if not _optimizer_handles_unscaling(optimizer):
            scaler.unscale_(optimizer)
        norms.append(torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0))
        scaler.step(optimizer)
        scaler.update()
    return optimizer, norms, layer.weight.detach()


class Model:
    def __init__(self, layer):
        self.layer, self.logit_scale = layer, torch.zeros(())

    def parameter_groups(self, learning_rate, **_):
        return [{"params": list(self.layer.parameters()), "lr": learning_rate}]


def test_the_fused_update_under_a_gradient_scaler_is_the_other_one():
    (plain, norms, weight), (fused, same_norms, same_weight) = fitted(False), fitted(True)
    assert (plain.defaults["fused"], fused.defaults["fused"]) == (False, True)
    assert torch.allclose(weight, same_weight, atol=1e-6)
    assert torch.allclose(torch.stack(norms), torch.stack(same_norms), rtol=1e-5), "both are clipped unscaled"
    assert fitted(None)[0].defaults["fused"] is False, "automatic: on a GPU alone"


def test_a_gradient_far_below_eps_moves_nothing():
    moved = {}
    for eps in (1e-8, 1.0):
        torch.manual_seed(3)
        start = torch.nn.Linear(5, 3).weight.detach().clone()
        moved[eps] = (fitted(False, eps=eps, weight_decay=0.0)[2] - start).abs().max().item()
    assert moved[1e-8] == pytest.approx(0.05, rel=0.3)
    assert moved[1.0] < 0.02


def test_a_fused_update_is_seen_by_what_was_computed_from_the_weights():
    model = Towers()
    optimizer, _ = AdamW(1e-2, head_learning_rate=1e-2, fused=True).build(model, 10)
    model.weight.grad = torch.ones(2, 2)
    version = model.weight._version
    optimizer.step()
    assert model.weight._version > version
