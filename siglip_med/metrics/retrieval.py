"""The headline metrics as a torchmetrics `Metric`, for validation on one process or many."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from siglip_med.core.errors import UserError
from siglip_med.metrics.headline import headline_metrics
from siglip_med.metrics.names import RESAMPLED_METRICS
from siglip_med.metrics.predictions import Predictions


class RetrievalMetrics(Metric):
    """Every headline metric that follows from scores, over all processes, each image once.

    The state is what was seen (logits, labels, primary condition, index), gathered by concatenation, because macro AUC
    needs all scores at once; 10,000 images of 114 conditions take 9 MB. Shards may be of any length, also empty. A
    distributed sampler repeats images to even out its shards: an index that was seen before is left out.

    The loss is that of all images at once too: the mean of what shards or batches would give weighs their positives
    unevenly, and would depend on the number of processes.

    Args:
        dissimilarity: ``[C, C]`` matrix D.
        chapters: the C chapters, or empty (chapter accuracy is then NaN).
        blocks: the C blocks, or empty (block accuracy is then NaN).
        kwargs: of `torchmetrics.Metric`.

    Examples:
        >>> metric = RetrievalMetrics(1.0 - np.eye(3))
        >>> logits, labels = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
        >>> metric.update(logits, labels, primary=torch.tensor([1]), index=torch.tensor([0]))
        >>> metric.compute()["mrr"].item()
        0.5
    """

    full_state_update = False

    logits: list[Tensor]
    labels: list[Tensor]
    primary: list[Tensor]
    index: list[Tensor]

    def __init__(
        self,
        dissimilarity: np.ndarray | Tensor,
        chapters: Sequence[str] = (),
        blocks: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dissimilarity = np.asarray(dissimilarity, dtype=np.float64)
        self.chapters, self.blocks = tuple(chapters), tuple(blocks)
        for name in ("logits", "labels", "primary", "index"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor, primary: Tensor, index: Tensor) -> None:
        """Adds ``[B, C]`` logits and labels, ``[B]`` first conditions, and ``[B]`` rows of the table."""
        self.logits.append(logits.detach().float())
        self.labels.append(labels.detach().float())
        self.primary.append(primary.long())
        self.index.append(index.long())

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather; a process that saw nothing joins in with empty arrays of the right shape."""
        if not self.index:
            self.logits.append(torch.empty(0, len(self.dissimilarity), device=self.device))
            self.labels.append(torch.empty(0, len(self.dissimilarity), device=self.device))
            self.primary.append(torch.empty(0, dtype=torch.long, device=self.device))
            self.index.append(torch.empty(0, dtype=torch.long, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """The metrics over all images, in order of their index.

        Returns:
            name -> scalar float32 tensor for `RESAMPLED_METRICS` and ``loss``, equal to `headline_metrics` of the same
            arrays; NaN where undefined, all of them if nothing was seen.

        Raises:
            UserError: a logit is not finite (the run diverged).
        """
        if isinstance(self.index, list) and not self.index:
            values = dict.fromkeys((*RESAMPLED_METRICS, "loss"), float("nan"))
        else:
            index, first = np.unique(_array(self.index), return_index=True)
            logits = _array(self.logits)[first]
            finite = np.isfinite(logits).all(axis=1)
            if not finite.all():
                raise UserError(
                    f"{int((~finite).sum())} of {len(index)} validation images have a logit that is not finite (first: "
                    f"row {index[~finite][0]}): the run diverged; lower the learning rate or use bf16 or 32-bit"
                )
            labels, primary = _array(self.labels)[first], _array(self.primary)[first]
            seen = Predictions.of(logits, labels, self.dissimilarity)
            values = headline_metrics(replace(seen, primary=primary, chapters=self.chapters, blocks=self.blocks))
        names = (*RESAMPLED_METRICS, "loss")
        return {name: torch.tensor(values[name], dtype=torch.float32, device=self.device) for name in names}


def _array(state: list[Tensor] | Tensor) -> np.ndarray:
    return dim_zero_cat(state).cpu().numpy()
