"""Which sentences a step sees: prompts of conditions."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from siglip_med.models import Tokenizer, TwoTower, in_chunks

logger = logging.getLogger(__name__)

Pool = Literal["batch", "all"]
PoolChoice = Literal["auto", "batch", "all"]

CHEAP = 0.25
"""Texts that cost at most this share of what the images of a step cost are all encoded with ``text_pool=auto``."""


def choose_pool(choice: PoolChoice, model: TwoTower, conditions: int, images: int) -> Pool:
    """The text pool of a run; ``auto`` is decided by what the texts cost, and the reason is logged.

    With ``all`` an image's loss depends less on its batch mates and no positive lacks negatives, so it is taken
    wherever it is nearly free: the text tower is frozen (its output is kept, and heads cost nothing), or encoding every
    condition costs little beside the images.

    Args:
        choice: ``batch``, ``all`` or ``auto``.
        model: the towers.
        conditions: C, texts per step with ``all``.
        images: images per step.
    """
    if choice != "auto":
        return choice
    if model.text_is_frozen:
        logger.info("text_pool=auto: all, since the text tower is frozen and reads every prompt once")
        return "all"
    share = conditions * model.cost("text") / (images * model.cost("vision"))
    pool: Pool = "all" if share <= CHEAP else "batch"
    logger.info(
        "text_pool=auto: %s, since %d conditions per step would cost about %.2f of what %d images cost (limit %.2f)",
        pool,
        conditions,
        share,
        images,
        CHEAP,
    )
    return pool


@dataclass(frozen=True)
class TextBatch:
    """The T distinct sentences of a step.

    Attributes:
        condition: ``[T]`` int64, the condition that each sentence describes.
        row: ``[T]`` int64, which of the pool's sentences each is (see `PromptPool.tokens`).
    """

    condition: Tensor
    row: Tensor


class PromptPool:
    """Draws one prompt per condition and step, from prompts that were tokenized once.

    The draw depends on the seed, the step and the condition alone. So a resumed run draws what the whole run would
    have drawn, and the processes of a distributed run agree on the prompt of a condition that several of them hold.
    """

    def __init__(self, prompts: Sequence[Sequence[str]], tokenize: Tokenizer, pool: Pool, seed: int) -> None:
        """Tokenizes every prompt.

        Args:
            prompts: C lists of sentences.
            tokenize: pads to the model's length.
            pool: ``batch`` takes the conditions that are positive in the batch, ``all`` every condition in every step.
            seed: seed of the draws.
        """
        self.pool = pool
        self.seed = seed
        counts = [len(sentences) for sentences in prompts]
        self._counts = np.array(counts)
        self._every_condition = torch.arange(len(counts))
        self._offsets = torch.tensor(np.concatenate([[0], np.cumsum(counts)[:-1]]), dtype=torch.int64)
        self._tokens = dict(tokenize([text for sentences in prompts for text in sentences]))

    def sample(self, labels: Tensor, step: int) -> TextBatch:
        """The sentences of one step.

        Args:
            labels: ``[B, C]`` labels of the batch.
            step: the optimizer step.

        Returns:
            One sentence for each condition of the pool, in the order of the conditions.
        """
        random = np.random.default_rng([self.seed, step])
        drawn = torch.from_numpy(random.integers(self._counts))
        if self.pool == "all":
            condition, rows = self._every_condition, self._offsets + drawn
        else:
            condition = (labels > 0).any(dim=0).nonzero().squeeze(1).cpu()
            rows = self._offsets[condition] + drawn[condition]
        return TextBatch(condition.to(labels.device), rows.to(labels.device))

    def tokens(self, texts: TextBatch) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` of a step's sentences, each ``[T, L]`` int64, on their device."""
        rows = texts.row.cpu()
        return {key: value[rows].to(texts.row.device) for key, value in self._tokens.items()}

    @torch.no_grad()
    def features(self, model: TwoTower) -> Tensor:
        """``[K, G]`` output of the text backbone for all K sentences of the pool, for a text tower that is frozen."""
        return in_chunks(model.text_features, self._tokens, model.logit_scale.device)

    @torch.no_grad()
    def states(self, model: TwoTower) -> Tensor:
        """``[K, L, D]`` states of all K sentences after the frozen first blocks of the text tower."""
        return in_chunks(model.text_states, self._tokens, model.logit_scale.device)
