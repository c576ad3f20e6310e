"""The origin's test: the true prompt of an image among random distractors, over every image and several draws."""

from dataclasses import dataclass

import numpy as np
from rich.table import Table
from scipy.special import expit

from siglip_med.core.errors import UserError
from siglip_med.core.outside import Console
from siglip_med.metrics.predictions import Predictions


@dataclass(frozen=True)
class CandidateRetrieval:
    """Ranks of the truth among K candidates (the truth first, then the distractors) for S draws of the distractors.

    Attributes:
        candidates: ``[S, N, K]`` int, condition of each candidate.
        confidences: ``[S, N, K]`` float32, sigmoid of the logit.
        ranks: ``[S, N]`` int, 1 is best; a tie counts against the model.
        seeds: the S seeds.
    """

    candidates: np.ndarray
    confidences: np.ndarray
    ranks: np.ndarray
    seeds: tuple[int, ...]

    def hits(self, k: int) -> np.ndarray:
        """``[N]`` share of the draws in which the truth is among the k best: for `Bootstrap.mean`."""
        return (self.ranks <= k).mean(axis=0)

    def summary(self) -> dict[str, float]:
        """Means over images and draws, with chance and the spread between draws.

        Returns:
            ``candidates_r_at_1``, ``candidates_r_at_5``, ``candidates_mrr``, ``candidates_mean_rank``; the standard
            deviation over draws ``candidates_r_at_1_sd``, ``candidates_r_at_5_sd``; ``chance_r_at_1``,
            ``chance_r_at_5``; ``candidates``: K.
        """
        size = self.candidates.shape[2]
        result = {"candidates": float(size), "candidates_mrr": float((1.0 / self.ranks).mean())}
        result["candidates_mean_rank"] = float(self.ranks.mean())
        for k in (1, 5):
            per_draw = (self.ranks <= k).mean(axis=1)
            result[f"candidates_r_at_{k}"] = float(per_draw.mean())
            result[f"candidates_r_at_{k}_sd"] = float(per_draw.std())
            result[f"chance_r_at_{k}"] = min(k, size) / size
        return result


def candidate_retrieval(
    predictions: Predictions, distractors: int = 9, seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
) -> CandidateRetrieval:
    """Rank the primary condition's prompt among random conditions that are negative for the image.

    The origin drew positive conditions as distractors too, which punishes a right answer. Images and prompts are
    encoded once (the logits are given), so a draw costs an argpartition.

    Args:
        predictions: N images.
        distractors: how many a draw (9 make the origin's 10 candidates).
        seeds: one draw of distractors for every image each; the same seeds give the same candidates for every model.

    Raises:
        UserError: an image has fewer negative conditions than distractors are asked for.
    """
    images, conditions = predictions.logits.shape
    positive, rows = predictions.positive, np.arange(images)
    free = conditions - positive.sum(axis=1)
    if images and free.min() < distractors:
        row = int(free.argmin())
        raise UserError(
            f"image {predictions.frame['image'].iloc[row]!r} has {free[row]} negative conditions of {conditions}, "
            f"fewer than the {distractors} distractors asked for; ask for at most {free[row]}"
        )
    candidates = np.empty((len(seeds), images, distractors + 1), dtype=np.int64)
    candidates[:, :, 0] = predictions.primary
    for draw, seed in enumerate(seeds):
        keys = np.random.default_rng(seed).random((images, conditions))
        keys[positive] = np.inf
        candidates[draw, :, 1:] = np.argsort(keys, axis=1)[:, :distractors]
    logits = predictions.logits[rows[None, :, None], candidates]
    ranks = 1 + (logits[:, :, 1:] >= logits[:, :, :1]).sum(axis=2)
    return CandidateRetrieval(candidates, expit(logits), ranks, tuple(seeds))


def print_sample(
    result: CandidateRetrieval, predictions: Predictions, row: int = 0, draw: int = 0, console: Console | None = None
) -> None:
    """Show one image's candidates, most confident first, with the truth marked."""
    confidence, names = result.confidences[draw, row], result.candidates[draw, row]
    image = predictions.frame["image"].iloc[row]
    table = Table(title=f"{image}: rank {result.ranks[draw, row]} of {len(names)}")
    table.add_column("rank", justify="right")
    table.add_column("condition")
    table.add_column("confidence", justify="right")
    table.add_column("truth")
    # a distractor goes first at equal confidence, as in the rank
    for place, candidate in enumerate(np.lexsort((np.arange(len(names)) == 0, -confidence)), start=1):
        truth = "yes" if candidate == 0 else ""
        table.add_row(str(place), predictions.conditions[names[candidate]], f"{confidence[candidate]:.4f}", truth)
    (console or Console()).print(table)
