"""Prompts as the tokenizer sees them."""

import pytest

from siglip_med.core.errors import UserError
from siglip_med.models.prompts import check_prompts


class Letters:
    """A model whose tokens are letters, eight at most."""

    max_text_length = 8
    lowercase_text = True

    @staticmethod
    def tokenizer(texts):
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def test_prompts_that_are_cut_are_counted():
    assert check_prompts(Letters, ["a", "b"], [["12345678"], ["abcdefgh"]]) == ()
    notes = check_prompts(Letters, ["a", "b"], [["123456789", "x"], ["abcdefgh"]])
    assert len(notes) == 1
    assert "1 of 3 prompts are longer than the 8 tokens" in notes[0]
    assert "'123456789' (9 tokens)" in notes[0]


def test_conditions_that_become_equal_stop_the_run():
    with pytest.raises(UserError, match="conditions 'a' and 'b': their prompts are the same 8 tokens"):
        check_prompts(Letters, ["a", "b"], [["prompt one"], ["PROMPT ONCE"]])


def test_single_prompts_that_are_shared_are_said():
    notes = check_prompts(Letters, ["a", "b"], [["skin", "one"], ["Skin", "two"]])
    assert notes == ("1 prompts are those of another condition once they are tokenized: 'a' and 'b'",)
