"""The optimizer and its learning rate."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from siglip_med.core.ranges import Share
from siglip_med.models import TwoTower


@runtime_checkable
class BuildsOptimizer(Protocol):
    """What the ``optimizer`` node of a config builds: the recipe of an optimizer and of its learning rate."""

    def build(self, model: TwoTower, total_steps: int) -> tuple[torch.optim.Optimizer, LRScheduler]:
        """The optimizer and its schedule for one run.

        Args:
            model: what it trains; `TwoTower.parameter_groups` decides what decays.
            total_steps: optimizer steps of the run; the schedule is stepped once per optimizer step.
        """
        ...


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov & Hutter 2019) with linear warm-up and cosine decay (Loshchilov & Hutter 2017).

    Attributes:
        learning_rate: peak rate of encoder weights and adapters.
        head_learning_rate: peak rate of the projections into the shared space; None is ``learning_rate``. Heads that
            start from nothing need ten times the rate of adapters or more.
        scale_learning_rate: peak rate of logit_scale and logit_bias.
        weight_decay: applied to matrices alone; never to scales, biases, norms or the pooling probe.
        warmup: share of the run that the rate rises over.
        final: the last rate, as a share of the peak.
        beta2: decay of the second moment.
        eps: added to the root of the second moment. A gradient far below it moves a weight by next to nothing; one far
            above it by the rate, however small it is.
        fused: one kernel for the whole update; the same numbers but for rounding. None: where the model is on a GPU.
    """

    learning_rate: PositiveFloat = 1e-3
    head_learning_rate: PositiveFloat | None = None
    scale_learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.01
    warmup: Share = 0.1
    final: Share = 0.0
    beta2: Share = 0.98
    eps: PositiveFloat = 1e-8
    fused: bool | None = None

    def build(self, model: TwoTower, total_steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """The optimizer and its schedule for one run.

        Args:
            model: its `parameter_groups` decide what decays.
            total_steps: optimizer steps of the run.
        """
        groups = model.parameter_groups(
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            scale_learning_rate=self.scale_learning_rate,
            head_learning_rate=self.head_learning_rate,
        )
        fused = model.logit_scale.is_cuda if self.fused is None else self.fused
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, self.beta2), eps=self.eps, fused=fused)
        # A fused optimizer would divide by the gradient scale itself, inside its step: too late to clip or to look at
        # the gradient, so Lightning refuses to clip. Without this offer the scaler unscales before, as for any other.
        optimizer._step_supports_amp_scaling = False
        if fused:
            # The fused update leaves the version of a tensor alone, by which kept embeddings see a changed weight.
            trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            optimizer.register_step_post_hook(lambda *_: torch.autograd.graph.increment_version(trained))
        return optimizer, LambdaLR(optimizer, lambda step: self.factor(step, total_steps))

    def factor(self, step: int, total_steps: int) -> float:
        """Share of the peak rate at a step."""
        warmup_steps = max(1, round(self.warmup * total_steps))
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))
