"""Proposed codes."""

import pytest

from siglip_med.conditions.suggest import in_words, suggest_codes, suggest_names


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("eczema", "L30.9"),
        ("coin shaped eczema", "L30.0"),  # the example of docs/geometry.md
        ("psorasis", "L40.9"),
        ("Behcet disease", "M35.2"),
        ("Behçet’s disease", "M35.2"),
        ("groin ringworm", "B35.6"),
        ("moles", "D22.9"),
        ("abrasion", "T14.8XXA"),  # a string search finds K03.1, abrasion of teeth
        ("Merkel cell carcinoma", "C4A.9"),
        ("scarlet fever", "A38.9"),
    ],
)
def test_best_suggestion(text, code):
    assert suggest_codes(text, 1)[0].code == code


def test_suggestions_are_ranked_complete_and_distinct():
    found = suggest_codes("contact dermatitis due to cosmetics", 10)
    scores = [suggestion.score for suggestion in found]
    assert scores == sorted(scores, reverse=True)
    assert len({suggestion.code for suggestion in found}) == 10
    assert {"L23.2", "L24.3", "L25.0"} <= {suggestion.code for suggestion in found}


def test_injuries_are_proposed_for_their_first_encounter_only():
    titles = [suggestion.title for suggestion in suggest_codes("dislocation of tooth", 5)]
    assert titles[0] == "Dislocation of tooth, initial encounter"
    assert not any("subsequent encounter" in title or "sequela" in title for title in titles)


def test_a_possessive_changes_nothing():
    assert suggest_codes("Kaposi's sarcoma") == suggest_codes("Kaposi sarcoma")


def test_nothing_near_gives_nothing():
    assert suggest_codes("qqqq") == []
    assert suggest_codes("") == []
    assert in_words([]) == "none"


def test_names_spelled_alike():
    assert suggest_names("eczma", ["Acne", "Eczema", "Vitiligo"]) == ["Eczema"]


def test_short_plurals_are_the_same_word():
    assert suggest_codes("abscess of lips") == suggest_codes("abscess of lip")
