"""What a model makes of a split's images, kept in memory: features for a probe, embeddings for the nearest cases."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from siglip_med.core.progress import tracked
from siglip_med.data import LabeledData
from siglip_med.models import TwoTower


@torch.no_grad()
def embed_split(
    model: TwoTower,
    data: LabeledData,
    split: str,
    encode: Callable[[Tensor], Tensor],
    description: str,
    chosen: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes images (``chosen``: rows of the table) without augmentation, the model in evaluation mode.

    Returns:
        ``[n, F]`` and the ``[n]`` rows of the table, in the order of the split.
    """
    training, device = model.training, model.logit_scale.device
    model.eval()
    encoded, rows = [], []
    for batch in tracked(data.full_loader(split, chosen), description):
        encoded.append(encode(batch.images.to(device)).cpu())
        rows.append(batch.index.cpu())
    model.train(training)
    return torch.cat(encoded).numpy(), torch.cat(rows).numpy()
