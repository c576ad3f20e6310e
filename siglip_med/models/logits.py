"""The learned scale and bias that turn a cosine into a logit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from siglip_med.core.errors import UserError


@dataclass(frozen=True)
class Logits:
    """How the logit scale and bias start, and how far they may go (Zhai et al. 2023, arXiv 2303.15343).

    logit = exp(logit_scale) · cosine + logit_bias. The scale is stored as a logarithm, but its settings are given as
    the multiplier itself, since nobody thinks of SigLIP's 117 as 4.76.

    Attributes:
        scale: initial multiplier; None takes the base model's (10 where it has none).
        bias: initial bias; None takes the base model's (0 for CLIP, −10 for a dual encoder).
        scale_range: lowest and highest multiplier.
        bias_range: lowest and highest bias.
        train_scale: whether the scale is trained.
        train_bias: whether the bias is trained; switch it off for losses that never see it, such as InfoNCE.
    """

    scale: float | None = None
    bias: float | None = None
    scale_range: Sequence[float] = (1.0, 200.0)
    bias_range: Sequence[float] = (-30.0, 30.0)
    train_scale: bool = True
    train_bias: bool = True

    def parameters(self, base_scale: float, base_bias: float) -> tuple[nn.Parameter, nn.Parameter]:
        """The two float32 scalars; a UserError for a range upside down, or an initial value outside of it."""
        scale = base_scale if self.scale is None else self.scale
        bias = base_bias if self.bias is None else self.bias
        _check("scale", scale, self.scale_range)
        _check("bias", bias, self.bias_range)
        if self.scale_range[0] <= 0:
            raise UserError(f"model.logits.scale_range starts at {self.scale_range[0]}: a multiplier is positive")
        return (
            nn.Parameter(torch.tensor(math.log(scale), dtype=torch.float32), requires_grad=self.train_scale),
            nn.Parameter(torch.tensor(bias, dtype=torch.float32), requires_grad=self.train_bias),
        )

    @torch.no_grad()
    def clamp(self, logit_scale: Tensor, logit_bias: Tensor) -> None:
        """Puts both scalars back into their ranges, in place."""
        low, high = self.scale_range
        logit_scale.clamp_(math.log(low), math.log(high))
        low, high = self.bias_range
        logit_bias.clamp_(low, high)


def _check(name: str, value: float, limits: Sequence[float]) -> None:
    if len(limits) != 2 or limits[0] >= limits[1]:
        raise UserError(f"model.logits.{name}_range={list(limits)}: give the lowest and the highest value")
    # The base's value went through float32, which may move it past a limit that it equals.
    slack = 1e-5 * max(1.0, abs(limits[0]), abs(limits[1]))
    if not limits[0] - slack <= value <= limits[1] + slack:
        raise UserError(
            f"the model starts with a logit {name} of {value:.4g}, outside model.logits.{name}_range={list(limits)}: "
            f"widen the range or set model.logits.{name}"
        )
