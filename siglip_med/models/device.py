"""Which device a model runs on outside of a trainer."""

from typing import Literal

import torch

from siglip_med.core.errors import UserError

Device = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(device: Device = "auto") -> torch.device:
    """The device that a setting names.

    Args:
        device: ``auto`` is the CUDA GPU where there is one, and the CPU elsewhere.

    Raises:
        UserError: the device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    if not there[device]:
        raise UserError(f"device={device}: torch finds none on this machine; take device=cpu")
    return torch.device(device)
