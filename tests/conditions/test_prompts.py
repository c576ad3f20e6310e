"""Prompts, before and after the real tokenizer."""

import pytest

from siglip_med.conditions import VOCABULARIES, evaluation_prompts, known_conditions, load_conditions, training_prompts
from siglip_med.conditions.prompts import MAX_DESCRIPTION_WORDS
from siglip_med.core.errors import UserError


@pytest.fixture(scope="module")
def tokenizer(shared):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(shared / "models" / "siglip-tokenizer")


def plain_set(tmp_path, *names):
    path = tmp_path / "codes.csv"
    codes = ["L30.0", "L30.1", "L30.2", "L30.3"]
    rows = "".join(f"{name},{code}\n" for name, code in zip(names, codes, strict=False))
    path.write_text("condition,code\n" + rows, encoding="utf-8")
    return load_conditions(names, path)


@pytest.mark.parametrize("prompts_of", [training_prompts, evaluation_prompts])
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_prompts_fit_64_tokens_and_stay_distinct(tokenizer, vocabulary, prompts_of):
    prompts = [prompt for row in prompts_of(load_conditions(known_conditions(vocabulary))) for prompt in row]
    tokens = [tuple(ids) for ids in tokenizer(prompts)["input_ids"]]
    assert max(map(len, tokens)) <= 64
    assert len(set(tokens)) == len(prompts)


def test_every_curated_description_keeps_the_words_limit():
    for vocabulary in VOCABULARIES:
        for condition in load_conditions(known_conditions(vocabulary)):
            assert len(condition.description.split()) <= MAX_DESCRIPTION_WORDS, condition.name


def test_the_description_comes_first_and_names_follow():
    conditions = load_conditions(["SCC/SCCIS", "Vitiligo"])
    (scc, vitiligo), descriptions = training_prompts(conditions), [c.description for c in conditions]
    assert scc[:3] == (
        descriptions[0],
        f"Clinical presentation of squamous cell carcinoma, invasive or in situ: {descriptions[0]}",
        "A dermatological image showing squamous cell carcinoma, invasive or in situ.",
    )
    assert len(scc) == len(vitiligo) == 4
    assert evaluation_prompts(conditions) == (scc[:3], vitiligo[:3])


def test_conditions_without_description_get_the_templates(tmp_path):
    prompts = training_prompts(plain_set(tmp_path, "unicorn rash", "dragon rash"))
    assert prompts[0][:2] == (
        "A dermatological image showing unicorn rash.",
        "Clinical presentation of unicorn rash.",
    )
    assert len(prompts[0]) == len(training_prompts(load_conditions(["Acne"]))[0])
    assert evaluation_prompts(plain_set(tmp_path, "unicorn rash"))[0] == prompts[0][:3]


def test_names_that_the_tokenizer_cannot_tell_apart_stop(tmp_path, tokenizer):
    assert tokenizer("dry rash")["input_ids"] == tokenizer("Dry (rash)")["input_ids"]
    with pytest.raises(UserError, match=r"conditions 'dry rash' and 'Dry \(rash\)': both have the prompt"):
        evaluation_prompts(plain_set(tmp_path, "dry rash", "Dry (rash)"))
