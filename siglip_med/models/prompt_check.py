"""Looks at prompts as the model's tokenizer sees them: what is cut off, and which conditions become the same."""

from collections.abc import Sequence

from siglip_med.core.errors import UserError
from siglip_med.models.two_tower import TwoTower


def check_prompts(model: TwoTower, names: Sequence[str], prompts: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """What should be known of a model's prompts before they are used.

    Args:
        model: whose tokenizer reads them.
        names: the C conditions.
        prompts: C lists of sentences.

    Returns:
        A sentence each on prompts that are longer than the text tower reads and on single prompts that two conditions
        share once they are tokenized.

    Raises:
        UserError: all prompts of two conditions are equal once they are tokenized, so that nothing tells them apart.
    """
    texts = [text for sentences in prompts for text in sentences]
    whole = model.tokenizer([text.lower() for text in texts] if model.lowercase_text else texts)["input_ids"]
    cut = [tuple(tokens[: model.max_text_length]) for tokens in whole]
    notes = []
    long = [place for place, tokens in enumerate(whole) if len(tokens) > model.max_text_length]
    if long:
        notes.append(
            f"{len(long):,} of {len(texts):,} prompts are longer than the {model.max_text_length} tokens that the text "
            f"tower reads, and are cut: the first is {texts[long[0]]!r} ({len(whole[long[0]])} tokens)"
        )
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
