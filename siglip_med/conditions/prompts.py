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

DESCRIBED_TEMPLATES = (
    "{description}",
    "Clinical presentation of {condition}: {description}",
    "A dermatological image showing {condition}.",
    "A close-up photograph of skin with {condition}.",
)
"""Sentences for a condition that has a description."""

PLAIN_TEMPLATES = (
    "A dermatological image showing {condition}.",
    "Clinical presentation of {condition}.",
    "A close-up photograph of skin with {condition}.",
    "A clinical photograph of a patient with {condition}.",
)
"""Sentences for a condition that has none."""

ENSEMBLED = 3
"""Of either list, the first so many are averaged for evaluation."""


def training_prompts(
    conditions: ConditionSet,
    described: Sequence[str] = DESCRIBED_TEMPLATES,
    plain: Sequence[str] = PLAIN_TEMPLATES,
) -> tuple[tuple[str, ...], ...]:
    """The sentences that training draws from, the description first.

    Args:
        conditions: C conditions.
        described: templates with ``{condition}`` and ``{description}`` for conditions that have a description.
        plain: templates with ``{condition}`` for those that have none.

    Returns:
        C tuples of prompts, as many as there are templates.

    Raises:
        UserError: two conditions would get the same prompt after the tokenizer, or a template has an unknown field.

    Examples:
        >>> from siglip_med.conditions import load_conditions
        >>> psoriasis = load_conditions(["Psoriasis"])
        >>> training_prompts(psoriasis)[0][2:]
        ('A dermatological image showing psoriasis.', 'A close-up photograph of skin with psoriasis.')
        >>> training_prompts(psoriasis, described=["{condition} of the skin"])
        (('Psoriasis of the skin',),)
    """
    prompts = tuple(
        tuple(
            _fill(template, condition.phrase, condition.description)
            for template in (described if condition.description else plain)
        )
        for condition in conditions
    )
    _check_distinct(conditions.names, prompts)
    return prompts


def evaluation_prompts(
    conditions: ConditionSet,
    described: Sequence[str] = DESCRIBED_TEMPLATES[:ENSEMBLED],
    plain: Sequence[str] = PLAIN_TEMPLATES[:ENSEMBLED],
) -> tuple[tuple[str, ...], ...]:
    """The sentences whose embeddings are averaged to represent a condition (prompt ensembling, Radford et al. 2021).

    Takes, returns and raises what `training_prompts` does.

    Examples:
        >>> from siglip_med.conditions import load_conditions
        >>> [len(prompts) for prompts in evaluation_prompts(load_conditions(["Psoriasis", "Acne"]))]
        [3, 3]
    """
    return training_prompts(conditions, described, plain)


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


def _fill(template: str, condition: str, description: str) -> str:
    try:
        prompt = template.format(condition=condition, description=description)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"prompt template {template!r}: {{condition}} and {{description}} are its only fields ({error}); correct it"
        ) from error
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
