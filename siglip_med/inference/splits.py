"""From a model and a split to Predictions: the same path before training, after it, and when a run is evaluated."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from siglip_med.conditions import ConditionSet
from siglip_med.core.progress import tracked
from siglip_med.data import LabeledData
from siglip_med.metrics import FRAME_COLUMNS, Predictions
from siglip_med.models import PromptEnsemble, TwoTower

_ROWS = 4_096

Embedded = tuple[np.ndarray, np.ndarray]
"""Pooled features ``[n, F]`` of images by a model, and their rows in the table."""


@torch.no_grad()
def predict_split(
    model: TwoTower,
    prompts: PromptEnsemble,
    data: LabeledData,
    conditions: ConditionSet,
    dissimilarity: np.ndarray,
    split: str,
    progress: bool = True,
) -> tuple[Predictions, np.ndarray]:
    """Scores every image of a split against every condition, in float32.

    Args:
        model: the towers; runs on the device it is on.
        prompts: the C conditions' sentences, averaged a condition.
        data: the images, or the features of a frozen tower, with their table.
        conditions: names, codes and groups.
        dissimilarity: ``[C, C]`` matrix D.
        split: ``train``, ``val`` or ``test``.
        progress: whether to show a bar.

    Returns:
        The predictions, and the ``[N, F]`` pooled features of their images.
    """
    training = model.training
    text = prompts.encode(model.eval())

    def judge(images: Tensor) -> Tensor:
        features = model.pooled_features(images)
        encoded = model.project_images(features).float()
        return torch.cat([normalize(encoded, dim=-1), model.logits(encoded, text), features.float()], dim=1)

    judged, rows = embed_split(model, data, split, judge, f"predicting {split}", progress=progress)
    model.train(training)
    frame = data.table.frame.iloc[rows].reset_index(drop=True)
    embeddings, logits, features = np.split(judged, [text.shape[1], text.shape[1] + len(text)], axis=1)
    predictions = Predictions(
        logits=logits,
        labels=data.table.labels[rows],
        primary=frame["primary"].to_numpy(),
        frame=frame[[*FRAME_COLUMNS, *(["source"] if "source" in frame else [])]],
        conditions=conditions.names,
        codes=conditions.codes,
        groups=conditions.groups,
        chapters=conditions.chapters,
        blocks=conditions.blocks,
        dissimilarity=dissimilarity,
        train_counts=np.asarray(data.train_counts),
        text_embeddings=text.cpu().numpy(),
        image_embeddings=embeddings,
        split=split,
        provenance=data.table.provenance,
    )
    return predictions, features


@torch.no_grad()
def project(model: TwoTower, features: np.ndarray) -> np.ndarray:
    """``[n, E]`` embeddings of length 1 of ``[n, F]`` pooled features, the model in evaluation mode."""
    training, device = model.training, model.logit_scale.device
    model.eval()
    parts = [model.embed_images(part.to(device)).cpu() for part in torch.from_numpy(features).split(_ROWS)]
    model.train(training)
    return torch.cat(parts).numpy()


@torch.no_grad()
def embed_split(
    model: TwoTower,
    data: LabeledData,
    split: str,
    encode: Callable[[Tensor], Tensor],
    description: str,
    chosen: np.ndarray | None = None,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes images (``chosen``: rows of the table) without augmentation, the model in evaluation mode.

    Returns:
        ``[n, F]`` and the ``[n]`` rows of the table, in the order of the split.
    """
    training, device = model.training, model.logit_scale.device
    model.eval()
    encoded, rows = [], []
    for batch in tracked(data.full_loader(split, chosen), description, shown=progress):
        encoded.append(encode(batch.images.to(device, non_blocking=True)).cpu())
        rows.append(batch.index.cpu())
    model.train(training)
    return torch.cat(encoded).numpy(), torch.cat(rows).numpy()
