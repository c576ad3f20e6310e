"""Ranks the labels that look wrong, from the runs of a k-fold sweep: each image was predicted by a model without it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict
from scipy.special import softmax

from siglip_med.core.errors import UserError
from siglip_med.core.files import write_text
from siglip_med.core.outside import Console, frame_csv
from siglip_med.metrics import Predictions, find_label_errors
from siglip_med.report.differences import PREDICTIONS


class Settings(BaseModel):
    """Top level of ``conf/labels.yaml``.

    Attributes:
        runs: folders of the k runs of ``data/splitter=kfold``, or the folder of the sweep that holds them.
        output_dir: folder of ``label_errors.csv``.
    """

    model_config = ConfigDict(extra="forbid")

    runs: str | list[str]
    output_dir: str


@dataclass(frozen=True)
class Result:
    """One row per image, the most doubtful label first, and the file that holds them."""

    ranking: pd.DataFrame
    path: Path


def run(settings: Settings) -> Result:
    """Joins the test predictions of the runs and ranks their labels.

    Raises:
        UserError: a run has no predictions, the runs have other conditions, or an image is tested twice.
    """
    folders = find_runs(settings.runs)
    ranking = rank_labels([Predictions.load(folder / PREDICTIONS / "test") for folder in folders], folders)
    path = Path(settings.output_dir) / "label_errors.csv"
    write_text(path, frame_csv(ranking))
    return Result(ranking, path)


def find_runs(runs: str | list[str]) -> list[Path]:
    """The run folders that are named, or those in the folder of a sweep.

    Raises:
        UserError: there are fewer than two.
    """
    if isinstance(runs, str):
        sweep = Path(runs).expanduser()
        found = sorted(folder.parents[1] for folder in sweep.glob("*/predictions/test"))
    else:
        found = [Path(folder).expanduser() for folder in runs]
    if len(found) < 2:
        raise UserError(f"runs={runs}: holds {len(found)} runs; give the folders of all runs of a k-fold sweep")
    return found


def show(result: Result) -> None:
    """Prints how many labels are likely wrong, the first of them, and where the list is."""
    console = Console()
    likely = int(result.ranking["likely_wrong"].sum())
    console.print(
        f"  {likely:,} of {len(result.ranking):,} labels are likely wrong; the most doubtful:", highlight=False
    )
    for row in result.ranking.head(10).itertuples():
        line = f"  {row.confidence:.4f}  {row.image}: {row.given} → {row.suggested}"
        console.print(line, soft_wrap=True, highlight=False)
    console.print(f"  list: {result.path}", soft_wrap=True, highlight=False)


def rank_labels(parts: list[Predictions], folders: list[Path]) -> pd.DataFrame:
    """One row per image: rank, image, case, given and suggested label, confidence, margin, whether it is likely wrong.

    Args:
        parts: test predictions of the folds.
        folders: where each comes from, for messages.

    Raises:
        UserError: see `run`.
    """
    first = parts[0]
    for part, folder in zip(parts, folders, strict=True):
        if part.conditions != first.conditions:
            raise UserError(f"{folder}: was trained on other conditions than {folders[0]}; give runs of one sweep")
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    twice = frame.duplicated(["image", "case"])
    if twice.any():
        raise UserError(
            f"{frame['image'][twice].iloc[0]}: is in the test split of two of the runs ({twice.sum():,} images are); "
            "give each fold of one sweep once"
        )
    logits = np.concatenate([part.logits for part in parts]).astype(np.float64)
    given = np.concatenate([part.primary for part in parts])
    positive = np.concatenate([part.positive for part in parts])
    found = find_label_errors(softmax(logits, axis=1), given, positive)
    order, names = found.ranked(), np.array(first.conditions, dtype=object)
    ranking = frame.iloc[order][["image", "case"]].reset_index(drop=True)
    ranking.insert(0, "rank", np.arange(1, len(order) + 1))
    return ranking.assign(
        given=names[given[order]],
        suggested=names[found.suggested[order]],
        confidence=found.confidence[order].round(6),
        margin=found.margin[order].round(4),
        likely_wrong=found.confident[order],
    )
