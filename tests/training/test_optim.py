"""The learning rate, against the library's own cosine."""

import pytest
import torch
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
