"""Prompt ensembles: the sentences of a condition, encoded and averaged into one embedding."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from siglip_med.core.errors import UserError
from siglip_med.models.two_tower import TwoTower

Tokenizer = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""Anything that turns sentences into padded token tensors (`TwoTower.tokenize`)."""


class PromptEnsemble:
    """The prompts that evaluation averages: one embedding per condition (prompt ensembling, Radford et al. 2021).

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
        """``[C, E]`` averaged embeddings, L2-normalized float32; in training mode (dropout) nothing is kept."""
        if self._model is None or self._model() is not model:
            self._model, self._frozen, self._embeddings = weakref.ref(model), None, None
        state = _state(model)
        if self._embeddings is not None and self._embeddings[0] == state and not model.training:
            return self._embeddings[1]
        device = model.logit_scale.device
        inputs, encode = self._inputs(model, chunk)
        embeddings = in_chunks(lambda **given: normalize(encode(**given).float(), dim=-1), inputs, device, chunk)
        total = embeddings.new_zeros(self._size, embeddings.shape[1])
        averaged = normalize(total.index_add_(0, self._owner.to(device), embeddings), dim=-1)
        if not model.training:
            self._embeddings = (state, averaged)
        return averaged

    def _inputs(self, model: TwoTower, chunk: int) -> tuple[Mapping[str, Tensor], Callable[..., Tensor]]:
        """What is encoded, and by what: what of the backbone is frozen reads the prompts at the first call."""
        if model.text_is_frozen:
            return {"features": self._kept(model, model.text_features, chunk)}, model.project_texts
        if model.frozen_blocks("text"):
            return {**self._tokens, "states": self._kept(model, model.text_states, chunk)}, model.encode_texts
        return self._tokens, model.encode_texts

    def _kept(self, model: TwoTower, read: Callable[..., Tensor], chunk: int) -> Tensor:
        key = _place(model)
        if self._frozen is None or self._frozen[0] != key:
            self._frozen = (key, in_chunks(read, self._tokens, model.logit_scale.device, chunk))
        return self._frozen[1]


def in_chunks(
    read: Callable[..., Tensor], inputs: Mapping[str, Tensor], device: torch.device, chunk: int = 256
) -> Tensor:
    """What ``read`` gives of tensors ``[n, ...]`` by name, read ``chunk`` rows at a time on ``device``."""
    rows = len(next(iter(inputs.values())))
    starts = range(0, rows, chunk)
    return torch.cat(
        [
            read(**{name: values[start : start + chunk].to(device) for name, values in inputs.items()})
            for start in starts
        ]
    )


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


def check_prompts(model: TwoTower, names: Sequence[str], prompts: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """What should be known of a model's prompts before they are used.

    Returns:
        A sentence each on prompts that are longer than the text tower reads and on single prompts that two conditions
        share once they are tokenized.

    Raises:
        UserError: all prompts of two conditions are equal once they are tokenized, so that nothing tells them apart.
    """
    texts = [text for sentences in prompts for text in sentences]
    cut = [tuple(tokens[: model.max_text_length]) for tokens in _tokens(model, texts)]
    notes = cut_texts(model, texts, "prompts")
    owners: dict[tuple[int, ...], str] = {}
    ensembles: dict[frozenset[tuple[int, ...]], str] = {}
    shared: list[tuple[str, str]] = []
    start = 0
    for name, sentences in zip(names, prompts, strict=True):
        tokens = cut[start : start + len(sentences)]
        start += len(sentences)
        other = ensembles.setdefault(frozenset(tokens), name)
        if other != name:
            raise UserError(
                f"conditions {other!r} and {name!r}: their prompts are the same {model.max_text_length} tokens; give "
                "each its own wording or description in the CSV of codes (conditions.codes=…)"
            )
        shared += [(owners[key], name) for key in tokens if owners.setdefault(key, name) != name]
    if shared:
        pair = " and ".join(map(repr, shared[0]))
        notes.append(f"{len(shared):,} prompts are those of another condition once they are tokenized: {pair}")
    return tuple(notes)


def cut_texts(model: TwoTower, texts: Sequence[str], what: str) -> list[str]:
    """A sentence on the texts (``what`` they are) that are longer than the text tower reads; nothing where none is."""
    long = [(text, len(tokens)) for text, tokens in zip(texts, _tokens(model, texts), strict=True)]
    long = [(text, length) for text, length in long if length > model.max_text_length]
    if not long:
        return []
    return [
        f"{len(long):,} of {len(texts):,} {what} are longer than the {model.max_text_length} tokens that the text "
        f"tower reads, and are cut: the first is {long[0][0]!r} ({long[0][1]} tokens)"
    ]


def _tokens(model: TwoTower, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, all of them."""
    tokens = model.tokenizer([text.lower() for text in texts] if model.lowercase_text else list(texts))
    return list(tokens["input_ids"])
