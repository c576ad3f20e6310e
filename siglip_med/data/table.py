"""The one table that every source becomes, whatever its files looked like."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

TEXT_COLUMNS = ("image", "image_id", "case", "description", "skin_tone", "sex", "age_group", "site", "source_split")
"""Columns of `ImageTable.frame` that hold text; unknown is the empty string, never a made-up value."""


@dataclass(frozen=True)
class ImageTable:
    """One row an image.

    Attributes:
        frame: index 0..N-1; columns `TEXT_COLUMNS` plus ``primary`` (int, the image's first condition) and
            ``source_row`` (int, 1-based row in the file it came from, header not counted; for error messages).
            ``image`` is a path relative to ``root``; ``case`` is the group that never straddles a split;
            ``skin_tone`` is a Fitzpatrick type "1" to "6"; ``source_split`` is "", "train", "val" or "test".
        labels: ``[N, C]`` float32 in [0, 1].
        conditions: the C condition names, in the order of the label columns.
        root: folder that the image paths are relative to.
        source: file or folder that the table came from, for error messages.
    """

    frame: pd.DataFrame
    labels: np.ndarray
    conditions: tuple[str, ...]
    root: Path
    source: str = ""

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def cases(self) -> np.ndarray:
        """``[N]`` case of each image, as text."""
        return self.frame["case"].to_numpy(dtype=str)
