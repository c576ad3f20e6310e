"""What a model said of a split: everything a metric, a plot or a later reader needs."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Predictions:
    """Scores of N images against C conditions, with what is needed to judge them.

    Attributes:
        logits: ``[N, C]`` float32, image against the ensembled prompt of each condition (sigmoid scale).
        labels: ``[N, C]`` float32 in [0, 1]; > 0 means listed.
        primary: ``[N]`` int, the image's first condition.
        frame: N rows of the table (image, image_id, case, skin_tone, sex, age_group, site), unknown = "".
        conditions: the C names; ``codes``: their ICD-10-CM codes; ``groups``: their coarse groups.
        dissimilarity: ``[C, C]`` the matrix D.
        train_counts: ``[C]`` images a condition in the training split (label-frequency baseline, head/middle/tail).
        text_embeddings: ``[C, E]`` L2-normalised ensembled prompt embeddings.
        image_embeddings: ``[N, E]`` L2-normalised, or empty ``[0, E]``.
        split: "val", "test" or a user's name for it.
    """

    logits: np.ndarray
    labels: np.ndarray
    primary: np.ndarray
    frame: pd.DataFrame
    conditions: tuple[str, ...]
    codes: tuple[str, ...]
    groups: tuple[str, ...]
    dissimilarity: np.ndarray
    train_counts: np.ndarray
    text_embeddings: np.ndarray
    image_embeddings: np.ndarray
    split: str = "test"
    meta: dict[str, str] = field(default_factory=dict)
