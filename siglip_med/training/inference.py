"""From a model and a split to Predictions: the same path before training, after it, and when a run is evaluated."""

from collections.abc import Sequence

import numpy as np
import torch
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader

from siglip_med.conditions import ConditionSet
from siglip_med.data.batch import Batch
from siglip_med.data.datamodule import DataModule
from siglip_med.evaluation import Predictions
from siglip_med.models import TwoTower
from siglip_med.training.texts import PromptEnsemble


@torch.no_grad()
def predict_split(
    model: TwoTower,
    prompts: Sequence[Sequence[str]],
    loader: DataLoader[Batch],
    datamodule: DataModule,
    conditions: ConditionSet,
    dissimilarity: np.ndarray,
    split: str,
    progress: bool = True,
) -> Predictions:
    """Scores every image of a loader against every condition, in float32.

    Args:
        model: the towers; runs on the device it is on.
        prompts: C lists of sentences, averaged a condition.
        loader: an evaluation loader that sees the whole split.
        datamodule: holds the table that the loader's indices point into.
        conditions: names, codes and groups.
        dissimilarity: ``[C, C]`` matrix D.
        split: name of the split.
        progress: whether to show a bar.
    """
    model.eval()
    device = model.logit_scale.device
    text = PromptEnsemble(prompts, model.tokenize).encode(model)
    images, indices = [], []
    for batch in track(loader, description=f"predicting {split}", disable=not progress, transient=True):
        images.append(nn.functional.normalize(model.encode_images(batch.images.to(device)).float(), dim=-1).cpu())
        indices.append(batch.index.cpu())
    embeddings, rows = torch.cat(images), torch.cat(indices).numpy()
    logits = embeddings @ text.cpu().T * model.logit_scale.exp().cpu() + model.logit_bias.cpu()
    frame = datamodule.table.frame.iloc[rows].reset_index(drop=True)
    return Predictions(
        logits=logits.numpy(),
        labels=datamodule.table.labels[rows],
        primary=frame["primary"].to_numpy(),
        frame=frame[["image", "image_id", "case", "skin_tone", "sex", "age_group", "site"]],
        conditions=conditions.names,
        codes=conditions.codes,
        groups=conditions.groups,
        chapters=conditions.chapters,
        blocks=conditions.blocks,
        dissimilarity=dissimilarity,
        train_counts=np.asarray(datamodule.train_counts),
        text_embeddings=text.cpu().numpy(),
        image_embeddings=embeddings.numpy(),
        split=split,
    )
