"""The sentences that represent a condition in the text tower.

SigLIP reads 64 tokens, and its tokenizer lower-cases and drops punctuation: prompts hold words, never codes
("L40.0" and "L400" are one text).
"""

import string
from collections.abc import Sequence

from siglip_med.conditions.condition import ConditionSet
from siglip_med.conditions.curated import fold
from siglip_med.core.errors import UserError

MAX_DESCRIPTION_WORDS = 36
"""Longest description: medical English takes up to 1.6 SigLIP tokens per word, and 64 also hold template and name."""

_DESCRIBED = (
    "{description}",
    "Clinical presentation of {condition}: {description}",
    "A dermatological image showing {condition}.",
    "A close-up photograph of skin with {condition}.",
)
"""Sentences for a condition that has a description."""

_PLAIN = (
    "A dermatological image showing {condition}.",
    "Clinical presentation of {condition}.",
    "A close-up photograph of skin with {condition}.",
    "A clinical photograph of a patient with {condition}.",
)
"""Sentences for a condition that has none."""


def training_prompts(conditions: ConditionSet) -> tuple[tuple[str, ...], ...]:
    """The four sentences that training draws from, for each of C conditions, the description first.

    Raises:
        UserError: two conditions would get the same prompt after the tokenizer.

    Examples:
        >>> from siglip_med.conditions import load_conditions
        >>> training_prompts(load_conditions(["Psoriasis"]))[0][2:]
        ('A dermatological image showing psoriasis.', 'A close-up photograph of skin with psoriasis.')
    """
    prompts = tuple(
        tuple(
            _capitalized(template.format(condition=condition.phrase, description=condition.description))
            for template in (_DESCRIBED if condition.description else _PLAIN)
        )
        for condition in conditions
    )
    _check_distinct(conditions.names, prompts)
    return prompts


def evaluation_prompts(conditions: ConditionSet) -> tuple[tuple[str, ...], ...]:
    """The sentences whose embeddings are averaged to represent a condition (prompt ensembling, Radford et al. 2021).

    They are the first three of `training_prompts`, which says what it raises.

    Examples:
        >>> from siglip_med.conditions import load_conditions
        >>> [len(prompts) for prompts in evaluation_prompts(load_conditions(["Psoriasis", "Acne"]))]
        [3, 3]
    """
    return tuple(prompts[:3] for prompts in training_prompts(conditions))


def wording_notes(conditions: ConditionSet) -> tuple[str, ...]:
    """Notes before training: on the file of codes, and on names that the sentences do not use."""
    other = [condition for condition in conditions if fold(condition.phrase) != fold(condition.name)]
    if not other:
        return conditions.notes
    some = ", ".join(f"{condition.name!r} as {condition.phrase!r}" for condition in other[:3])
    return (
        *conditions.notes,
        f"prompts word {len(other)} of {len(conditions)} conditions otherwise than the data: {some}",
    )


def _capitalized(prompt: str) -> str:
    return prompt[:1].upper() + prompt[1:]


def _check_distinct(names: Sequence[str], prompts: Sequence[Sequence[str]]) -> None:
    owners: dict[str, str] = {}
    for name, sentences in zip(names, prompts, strict=True):
        for sentence in sentences:
            other = owners.setdefault(_as_tokenized(sentence), name)
            if other != name:
                raise UserError(
                    f"conditions {other!r} and {name!r}: both have the prompt {sentence!r} once case and punctuation "
                    "are dropped; merge them, or describe each in the CSV of codes (conditions.codes=…)"
                )


def _as_tokenized(text: str) -> str:
    """A text as the SigLIP tokenizer sees it: lower case, no ASCII punctuation, single spaces."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())
