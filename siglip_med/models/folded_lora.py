"""LoRA of narrow layers as one matrix product: cheaper there than the three of the library."""

from typing import Any, ClassVar

import torch
from peft.tuners.lora import Linear
from torch import Tensor
from torch.nn.functional import linear


class FoldedLinear(Linear):
    """PEFT's adapted linear layer, with ``W + s B A`` multiplied out first where that is less work.

    The same weights under the same names, and the same function (Hu et al. 2022, arXiv 2106.09685, section 4.1):
    ``(W + s B A) x`` in place of ``W x + s B (A x)``. That saves two thin products and two passes over the output;
    the gradient of the whole matrix costs more, which a wide layer does not get back. Adapters with dropout (each
    token has its own mask), DoRA, and half precision (where W would swallow small updates) are left to PEFT.
    """

    widest: ClassVar[int] = 256
    """In or out; up to this width the one product is the cheaper way (`benchmarks/narrow_adapters.py`)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        if args or kwargs or not self._is_foldable(x):
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        base: Any = self.get_base_layer()
        up: Any = self.lora_B[name]
        down: Any = self.lora_A[name]
        return linear(x, torch.addmm(base.weight, up.weight, down.weight, alpha=self.scaling[name]), base.bias)

    def _is_foldable(self, x: Tensor) -> bool:
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return False
        (name,) = self.active_adapters
        if name not in self.lora_A or name in self.lora_variant or self.lora_bias[name]:
            return False
        if self.training and not isinstance(self.lora_dropout[name], torch.nn.Identity):
            return False
        base: Any = self.get_base_layer()
        narrow = min(base.weight.shape) <= self.widest
        return narrow and x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
