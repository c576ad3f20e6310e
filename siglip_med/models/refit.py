"""The refit: the last layer in closed form, as a module that turns pooled image features into logits."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from siglip_med.core.errors import UserError

REFIT_FILE = "refit.safetensors"
_SHAPES = {"mean": "F", "scale": "F", "centers": "MF", "weights": "MC", "offset": "C", "width": ""}


class Refit(nn.Module):
    """Kernel ridge regression that was fitted, in torch: a logit per condition, with a gradient by the features.

    logits = exp(-width · |x - center|² / F) @ weights + offset for standardized features x; the sigmoid of a logit is a
    calibrated confidence. It computes in double precision (float32 on Apple's GPU, which has none): its sums over
    thousands of centers are of numbers much larger than themselves.

    Attributes:
        mean, scale: ``[F]``, by which features are standardized.
        centers: ``[M, F]`` standardized features of training images.
        weights: ``[M, C]`` of each center and condition.
        offset: ``[C]``.
        width: 0-dim, of the kernel.
        about: how it was fitted, in words.
    """

    mean: Tensor
    scale: Tensor
    centers: Tensor
    weights: Tensor
    offset: Tensor
    width: Tensor

    def __init__(self, arrays: Mapping[str, Any], about: str = "") -> None:
        """Takes the arrays of `siglip_med.metrics.kernel_ridge.KernelRidge.arrays`."""
        super().__init__()
        for name in _SHAPES:
            self.register_buffer(name, torch.as_tensor(arrays[name], dtype=torch.float32))
        self.about = about

    def forward(self, features: Tensor) -> Tensor:
        """``[B, F]`` pooled features of `TwoTower.pooled_features` to ``[B, C]`` float32 logits.

        Raises:
            UserError: the features are those of another tower.
        """
        kernel = torch.exp(-_precise(self.width) * self._squared(features))
        return (kernel @ _precise(self.weights) + _precise(self.offset)).float()

    def distances(self, features: Tensor) -> Tensor:
        """``[B]`` root mean squared difference of standardized features to the nearest center; errors of `forward`."""
        return self._squared(features).amin(dim=1).sqrt().float()

    def _squared(self, features: Tensor) -> Tensor:
        """``[B, M]`` squared distances to the centers over F."""
        if features.shape[1] != len(self.mean):
            raise UserError(
                f"refit: it was fitted on {len(self.mean)} features an image, this model gives {features.shape[1]}: "
                "the checkpoint is damaged, or belongs to another model; use scores=prompts"
            )
        centers = _precise(self.centers)
        x = (_precise(features) - _precise(self.mean)) / _precise(self.scale)
        squared = (x * x).sum(1, keepdim=True) + (centers * centers).sum(1) - 2 * x @ centers.T
        return squared.clamp(min=0) / len(self.mean)

    def against_the_mean(self, features: Tensor, column: int) -> Tensor:
        """``[B]`` logit of a condition less the mean of all, for ``[B, F]`` features: what a map is drawn of."""
        logits = self(features)
        return logits[:, column] - logits.mean(dim=1)

    def stored(self) -> dict[str, Any]:
        """What a checkpoint keeps; `read_refit` reads it."""
        return {"about": self.about, "arrays": {name: value.cpu() for name, value in self.state_dict().items()}}

    @property
    def megabytes(self) -> float:
        """Its size in a checkpoint or export."""
        return sum(value.numel() * value.element_size() for value in self.buffers()) / 1e6


def read_refit(stored: object, conditions: int, source: str) -> Refit | None:
    """The refit that a checkpoint or an export holds; None where it holds none.

    Args:
        stored: of `Refit.stored`; a file may hold anything.
        conditions: C, of the same file.
        source: the file, for messages.

    Raises:
        UserError: an array is missing, has another shape or type, or is not finite.
    """
    if stored is None:
        return None
    arrays = stored.get("arrays") if isinstance(stored, Mapping) else None
    if not (isinstance(arrays, Mapping) and set(arrays) == set(_SHAPES)):
        raise UserError(f"{source}: its refit is damaged: it needs the arrays {', '.join(_SHAPES)}")
    sizes = {"C": conditions}
    for name, axes in _SHAPES.items():
        value = arrays[name]
        if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.ndim != len(axes):
            raise UserError(f"{source}: its refit is damaged: {name} is no float32 array of {len(axes)} dimensions")
        if any(sizes.setdefault(axis, size) != size for axis, size in zip(axes, value.shape, strict=True)):
            raise UserError(f"{source}: its refit is damaged: {name} has shape {list(value.shape)}, which does not fit")
        if not torch.isfinite(value).all():
            raise UserError(f"{source}: its refit is damaged: {name} holds values that are not finite")
        if name in ("scale", "width") and not (value > 0).all():
            raise UserError(f"{source}: its refit is damaged: {name} is not above 0")
    return Refit(arrays, str(stored.get("about", "")) if isinstance(stored, Mapping) else "")


def _precise(value: Tensor) -> Tensor:
    return value.float() if value.device.type == "mps" else value.double()
