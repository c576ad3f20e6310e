"""Familiarity at work: fitted on a run's validation photographs, asked of any other."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from siglip_med.core.errors import UserError
from siglip_med.core.image_spec import ImageSpec
from siglip_med.core.progress import tracked
from siglip_med.core.ranges import UNFAMILIAR
from siglip_med.data.images import read_image
from siglip_med.data.quality import FAULTS, fault
from siglip_med.models import Familiarity, Refit

if TYPE_CHECKING:
    from siglip_med.data import LabeledData  # which loads Lightning: whoever predicts does not wait for it

BLANK = FAULTS[0]
"""The fault of a photograph without content: no condition is ranked for it."""
STRANGE = "unlike the photographs of training"
_ROWS, _WORKERS = 4_096, 8


def split_faults(data: LabeledData, split: str, spec: ImageSpec) -> list[str | None]:
    """The fault of each photograph of a split, "" for none, None for a file that is not there any more."""
    images = data.table.frame["image"].iloc[data.rows(split)]
    with ThreadPoolExecutor(_WORKERS) as pool:
        found = pool.map(partial(_fault, spec=spec), [data.table.root / image for image in images])
        return list(tracked(found, f"quality of {split}", "images", total=len(images)))


def _fault(path: Path, spec: ImageSpec) -> str | None:
    try:
        square = read_image(path, spec.size, bits=spec.bits)
    except UserError:
        return None
    with Image.open(path) as image:
        return fault(square, image.size)


@torch.no_grad()
def distances(refit: Refit | None, features: np.ndarray) -> np.ndarray | None:
    """``[N]`` of ``[N, F]`` pooled features to the nearest training image that a refit keeps; None without one."""
    if refit is None:
        return None
    return torch.cat([refit.distances(block) for block in torch.from_numpy(features).split(_ROWS)]).numpy()


@torch.no_grad()
def familiarity(
    rule: Familiarity, refit: Refit | None, features: Tensor, by_prompts: Tensor | None, faults: Sequence[str]
) -> np.ndarray:
    """``[B]`` p-values of ``[B, F]`` pooled features; the logits are the refit's where there is one, whoever ranks."""
    if refit is None:
        assert by_prompts is not None
        return rule.p_values(by_prompts.cpu().numpy(), None, faults)
    return rule.p_values(refit(features).cpu().numpy(), refit.distances(features).cpu().numpy(), faults)


def why_unfamiliar(familiarity: float | None, fault: str) -> str:
    """Why a photograph is not to be answered like others, "" for a familiar one.

    Without content it never is, whatever the checkpoint knows; the other faults count where familiarity is known.
    """
    if fault == BLANK or (familiarity is not None and familiarity < UNFAMILIAR):
        return fault or STRANGE
    return ""
