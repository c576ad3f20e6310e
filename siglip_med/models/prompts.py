"""Prompt ensembles: the sentences of a condition, encoded and averaged into one embedding."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from siglip_med.models.two_tower import TwoTower


class Tokenizer(Protocol):
    """Anything that turns sentences into padded token tensors (`TwoTower.tokenize`)."""

    def __call__(self, texts: Sequence[str]) -> Mapping[str, Tensor]: ...


class PromptEnsemble:
    """The prompts that evaluation averages: one embedding a condition (prompt ensembling, Radford et al. 2021).

    What cannot have changed is not computed again: a frozen text backbone (or its frozen first blocks) reads the
    prompts once, and the embeddings are those of the last call until a weight that they depend on was written to.
    """

    def __init__(self, prompts: Sequence[Sequence[str]], tokenize: Tokenizer) -> None:
        """Tokenizes every prompt of C conditions once."""
        self._owner = torch.tensor([number for number, sentences in enumerate(prompts) for _ in sentences])
        self._tokens = dict(tokenize([text for sentences in prompts for text in sentences]))
        self._size = len(prompts)
        self._model: weakref.ref[TwoTower] | None = None
        self._frozen: tuple[object, Tensor] | None = None
        self._embeddings: tuple[object, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # What is kept belongs to one model in one process.
        return self.__dict__ | {"_model": None, "_frozen": None, "_embeddings": None}

    @torch.no_grad()
    def encode(self, model: TwoTower, chunk: int = 256) -> Tensor:
        """Encodes the prompts and averages those of a condition.

        Args:
            model: the towers; encodes on the device of its logit scale. In training mode (dropout) nothing is kept.
            chunk: prompts encoded at once.

        Returns:
            ``[C, E]`` float32, L2-normalized.
        """
        if self._model is None or self._model() is not model:
            self._model, self._frozen, self._embeddings = weakref.ref(model), None, None
        state = _state(model)
        if self._embeddings is not None and self._embeddings[0] == state and not model.training:
            return self._embeddings[1]
        device = model.logit_scale.device
        parts = []
        for start in range(0, len(self._owner), chunk):
            rows = slice(start, start + chunk)
            parts.append(normalize(self._encode(model, rows).float(), dim=-1))
        embeddings = torch.cat(parts)
        total = embeddings.new_zeros(self._size, embeddings.shape[1])
        averaged = normalize(total.index_add_(0, self._owner.to(device), embeddings), dim=-1)
        if not model.training:
            self._embeddings = (state, averaged)
        return averaged

    def _encode(self, model: TwoTower, rows: slice) -> Tensor:
        """``[n, E]``; what of the backbone is frozen reads all prompts at the first call."""
        if model.text_is_frozen:
            return model.project_texts(self._kept(model, model.text_features, rows))
        tokens = self._on_device(model, rows)
        if not model.frozen_blocks("text"):
            return model.encode_texts(**tokens)
        return model.encode_texts(**tokens, states=self._kept(model, model.text_states, rows))

    def _kept(self, model: TwoTower, read: Callable[..., Tensor], rows: slice) -> Tensor:
        key = _place(model)
        if self._frozen is None or self._frozen[0] != key:
            step = rows.stop - rows.start
            parts = (slice(start, start + step) for start in range(0, len(self._owner), step))
            self._frozen = (key, torch.cat([read(**self._on_device(model, part)) for part in parts]))
        return self._frozen[1][rows]

    def _on_device(self, model: TwoTower, rows: slice) -> dict[str, Tensor]:
        return {key: value[rows].to(model.logit_scale.device) for key, value in self._tokens.items()}


def _state(model: TwoTower) -> object:
    """Changes whenever a text embedding might: PyTorch counts how often each tensor was written to."""
    written = [
        (id(parameter), parameter._version)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and model.component_of(name) in ("text", "heads")
    ]
    return _place(model), written


def _place(model: TwoTower) -> tuple[torch.device, torch.dtype | None]:
    """Device and autocast: embeddings of a mixed-precision validation are not those of a float32 evaluation."""
    device = model.logit_scale.device
    rounded = torch.is_autocast_enabled(device.type)
    return device, torch.get_autocast_dtype(device.type) if rounded else None
