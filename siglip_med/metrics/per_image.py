"""One row per image, for a spreadsheet: what was predicted, how sure, and how far off."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from siglip_med.core.files import write_text
from siglip_med.core.outside import frame_csv
from siglip_med.metrics.hierarchy import label_distance
from siglip_med.metrics.predictions import FRAME_COLUMNS, Predictions
from siglip_med.metrics.ranking import best_rank, condition_order, condition_ranks


def per_image_table(predictions: Predictions) -> pd.DataFrame:
    """What the model said of each image.

    Returns:
        N rows: the table's columns, ``labels`` (names joined by " | ", heaviest first), ``primary``, ``rank_any`` and
        ``rank_primary`` (1 is best), ``hit_at_1``, ``icd_distance`` (of the first prediction to the nearest label),
        then ``top_1``, ``confidence_1``, ... (the sigmoid of the logit).
    """
    p, positive = predictions, predictions.positive
    order = condition_order(p.logits, positive)
    ranks, rows = condition_ranks(order), np.arange(len(p))
    names = np.asarray(p.conditions, dtype=object)
    confidence = expit(p.logits.astype(np.float64))
    heaviest = np.argsort(-p.labels, axis=1, kind="stable")
    columns: dict[str, np.ndarray | list[str]] = {
        "labels": [" | ".join(names[heaviest[row][: positive[row].sum()]]) for row in rows],
        "primary": names[p.primary],
        "rank_any": best_rank(ranks, positive),
        "rank_primary": ranks[rows, p.primary],
        "hit_at_1": positive[rows, order[:, 0]],
        "icd_distance": label_distance(positive, p.dissimilarity)[rows, order[:, 0]],
    }
    for place in range(min(5, len(names))):
        columns[f"top_{place + 1}"] = names[order[:, place]]
        columns[f"confidence_{place + 1}"] = confidence[rows, order[:, place]]
    return pd.concat([p.frame[list(FRAME_COLUMNS)].reset_index(drop=True), pd.DataFrame(columns)], axis=1)


def write_per_image(predictions: Predictions, folder: str | Path) -> Path:
    """Writes `per_image_table` as ``per_image.csv`` into a folder, which is made if it is absent; returns its path."""
    path = Path(folder) / "per_image.csv"
    write_text(path, frame_csv(per_image_table(predictions)))
    return path
