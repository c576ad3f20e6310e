"""From a model and a split to Predictions: the same path before training, after it, and when a run is evaluated."""

import numpy as np
import torch
from torch.nn.functional import normalize

from siglip_med.conditions import ConditionSet
from siglip_med.core.progress import tracked
from siglip_med.data import LabeledData
from siglip_med.metrics import Predictions
from siglip_med.models import PromptEnsemble, TwoTower


@torch.no_grad()
def predict_split(
    model: TwoTower,
    prompts: PromptEnsemble,
    data: LabeledData,
    conditions: ConditionSet,
    dissimilarity: np.ndarray,
    split: str,
    progress: bool = True,
) -> Predictions:
    """Scores every image of a split against every condition, in float32.

    Args:
        model: the towers; runs on the device it is on.
        prompts: the C conditions' sentences, averaged a condition.
        data: the images, or the features of a frozen tower, with their table.
        conditions: names, codes and groups.
        dissimilarity: ``[C, C]`` matrix D.
        split: ``train``, ``val`` or ``test``.
        progress: whether to show a bar.
    """
    training = model.training
    model.eval()
    device = model.logit_scale.device
    text = prompts.encode(model)
    images, scores, indices = [], [], []
    for batch in tracked(data.full_loader(split), f"predicting {split}", shown=progress):
        encoded = model.encode_images(batch.images.to(device, non_blocking=True)).float()
        images.append(normalize(encoded, dim=-1).cpu())
        scores.append(model.logits(encoded, text).cpu())
        indices.append(batch.index.cpu())
    model.train(training)
    rows = torch.cat(indices).numpy()
    frame = data.table.frame.iloc[rows].reset_index(drop=True)
    return Predictions(
        logits=torch.cat(scores).numpy(),
        labels=data.table.labels[rows],
        primary=frame["primary"].to_numpy(),
        frame=frame[["image", "image_id", "case", "skin_tone", "sex", "age_group", "site"]],
        conditions=conditions.names,
        codes=conditions.codes,
        groups=conditions.groups,
        chapters=conditions.chapters,
        blocks=conditions.blocks,
        dissimilarity=dissimilarity,
        train_counts=np.asarray(data.train_counts),
        text_embeddings=text.cpu().numpy(),
        image_embeddings=torch.cat(images).numpy(),
        split=split,
        provenance=data.table.provenance,
    )
