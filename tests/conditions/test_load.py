"""From names to conditions."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siglip_med.conditions import VOCABULARIES, known_conditions, load_conditions
from siglip_med.core.errors import UserError


def test_all_unknown_names_are_said_at_once():
    with pytest.raises(UserError, match=r"condition 1, 'qqqx'.*the same holds for 2 more: 'qqqy', 'qqqz'"):
        load_conditions(["qqqx", "Acne", "qqqy", "qqqz"])


def test_hyphens_and_underscores_are_spaces():
    assert load_conditions(["basal-cell-carcinoma", "Seborrheic_keratosis"]).codes == ("C44.91", "L82.1")


def test_names_are_kept_as_given_and_looked_up_without_case_or_spacing():
    conditions = load_conditions(["scc/sccis", "  ECZEMA", "atopic  thing".replace("atopic  thing", "Herpes  zoster")])
    assert conditions.names == ("scc/sccis", "  ECZEMA", "Herpes  zoster")
    assert conditions.codes == ("C44.92", "L30.9", "B02.9")
    assert conditions.conditions[2].title == "Zoster without complications"
    assert conditions.groups == ("Skin Cancer", "Inflammatory Dermatitis", "Viral Infections")
    assert conditions.chapters[0] == "II - Neoplasms (C00-D49)"
    assert conditions.blocks[1] == "L20-L30 - Dermatitis and eczema"
    assert conditions.paths[1] == ("12", "L20-L30", "L30", "L30.9")
    assert all(condition.description for condition in conditions)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("shingles", "B02.9"),
        ("acne vulgaris", "L70.0"),  # Fitzpatrick17k's own label wins over a kind of acne
        ("bkl", "L82.1"),
        ("NEV", "D22.9"),
        ("AK", "L57.0"),
        ("Bowen's disease", "C44.92"),
        ("hives", "L50.9"),
        ("seborrheic keratosis", "L82.1"),
    ],
)
def test_synonyms_and_other_vocabularies(name, code):
    assert load_conditions([name]).codes == (code,)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@given(data=st.data())
def test_any_part_of_a_vocabulary_loads_in_any_order(vocabulary, data):
    names = data.draw(st.lists(st.sampled_from(known_conditions(vocabulary)), min_size=1, unique=True))
    assert load_conditions(names).names == tuple(names)


def test_the_21_labels_of_the_real_photographs(shared):
    with (shared / "data" / "fitzpatrick17k" / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["condition"] for row in rows})
    conditions = load_conditions(names)
    assert len(conditions) == 21
    assert all(condition.description for condition in conditions)
    assert all(conditions.groups)
    by_name = dict(zip(conditions.names, conditions.paths, strict=True))
    for name, scin in {(row["condition"], row["scin_condition"]) for row in rows if row["scin_condition"]}:
        assert by_name[name][:3] == load_conditions([scin]).paths[0][:3], name


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no conditions"),
        (["Eczema", "Acne", "eczema"], r"condition 3, 'eczema': the same name as condition 1"),
        (["Acne", "pimples"], r"condition 2, 'pimples': described just as 'Acne' \(L70\.9\)"),
        (["melanoma", "mel"], "described just as 'melanoma'"),
        (["Psorasis"], r"condition 1, 'Psorasis'.*nearest names: 'Psoriasis'.*nearest codes: L40\.9 \(Psoriasis"),
        (["qqqq"], r"condition 1, 'qqqq': not in the curated tables; rename it, leave it out \('data\.source\.alia"),
    ],
)
def test_wrong_names_stop_with_one_line(names, message):
    with pytest.raises(UserError, match=message) as error:
        load_conditions(names)
    assert "\n" not in str(error.value)
