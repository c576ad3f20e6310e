"""Tensors that are spread over processes: the whole of one, and the part that is here."""

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether a process holds a part of the tensor alone (`torch.distributed.tensor.DTensor`)."""
    return hasattr(tensor, "full_tensor")  # the class itself would load torch.distributed for every command


def whole(tensor: Tensor) -> Tensor:
    """The tensor as every process together holds it; all of them have to ask for it. One that is whole is itself."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return full


def here(tensor: Tensor) -> Tensor:
    """The part of the tensor that this process holds, in the same memory; all of one that is whole."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part
