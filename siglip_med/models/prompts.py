"""Prompt ensembles: the sentences of a condition, encoded and averaged into one embedding."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from siglip_med.models.two_tower import TwoTower


class Tokenizer(Protocol):
    """Anything that turns sentences into padded token tensors (`TwoTower.tokenize`)."""

    def __call__(self, texts: Sequence[str]) -> Mapping[str, Tensor]: ...


class PromptEnsemble:
    """The prompts that evaluation averages: one embedding a condition (prompt ensembling, Radford et al. 2021)."""

    def __init__(self, prompts: Sequence[Sequence[str]], tokenize: Tokenizer) -> None:
        """Tokenizes every prompt of C conditions once."""
        self._owner = torch.tensor([number for number, sentences in enumerate(prompts) for _ in sentences])
        self._tokens = dict(tokenize([text for sentences in prompts for text in sentences]))
        self._size = len(prompts)

    @torch.no_grad()
    def encode(self, model: TwoTower, chunk: int = 256) -> Tensor:
        """Encodes the prompts and averages those of a condition.

        Args:
            model: the towers; encodes on the device of its logit scale.
            chunk: prompts encoded at once.

        Returns:
            ``[C, E]`` float32, L2-normalized.
        """
        device = model.logit_scale.device
        parts = []
        for start in range(0, len(self._owner), chunk):
            tokens = {key: value[start : start + chunk].to(device) for key, value in self._tokens.items()}
            parts.append(normalize(model.encode_texts(**tokens).float(), dim=-1))
        embeddings = torch.cat(parts)
        total = embeddings.new_zeros(self._size, embeddings.shape[1])
        return normalize(total.index_add_(0, self._owner.to(device), embeddings), dim=-1)
