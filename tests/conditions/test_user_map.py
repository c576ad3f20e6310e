"""A user's own map from conditions to codes."""

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siglip_med.conditions import dissimilarity, load_conditions, training_prompts
from siglip_med.conditions.codes import read_code_book
from siglip_med.conditions.tree import tree_text
from siglip_med.conditions.user_map import read_user_map
from siglip_med.core.errors import UserError


@pytest.fixture
def write(tmp_path):
    def to_file(text, encoding="utf-8"):
        path = tmp_path / "my_codes.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return to_file


def test_a_map_is_used_instead_of_the_catalog(write):
    path = write(
        "Condition,code,group,description,remark\n"
        "Eczema,l209,,,ours is atopic\n"
        "Unicorn rash, L30.0 ,skin cancer,Round  glittering patches.,\n"
        "not in the data,L80,,,\n",
        encoding="utf-8-sig",
    )
    conditions = load_conditions(["unicorn  RASH", "Eczema"], path)
    assert conditions.names == ("unicorn  RASH", "Eczema")
    assert conditions.codes == ("L30.0", "L20.9")
    assert tuple(c.title for c in conditions) == ("Nummular dermatitis", "Atopic dermatitis, unspecified")
    assert conditions.groups == ("Skin Cancer", "Inflammatory Dermatitis")
    assert conditions.conditions[0].description == "Round glittering patches."
    assert conditions.conditions[1].description.startswith("Ill-defined patches")
    assert dissimilarity(conditions)[0, 1] == 0.6


def test_what_nobody_said_stays_empty(write):
    conditions = load_conditions(["Unicorn rash"], write("condition,code\nUnicorn rash,L30.0\n"))
    assert conditions.groups == ("",)
    assert conditions.conditions[0].description == ""


def test_a_key_is_worded_by_its_own_words_or_by_the_title_of_its_code(write):
    path = write(
        "condition;code;wording;synonyms\n0;L20.9;;\nlabel_X;C43.9;;\nEkzem;L30.9;;\nsunburn blister;L55.1;;\n"
        'Schuppenflechte;L40.9;psoriasis;"scaly lichen; psora"\n',
        encoding="cp1252",
    )
    conditions = load_conditions(["0", "label_X", "Ekzem", "Schuppenflechte", "sunburn blister"], path)
    assert [condition.phrase for condition in conditions] == [
        "atopic dermatitis",
        "malignant melanoma of skin",
        "dermatitis",
        "psoriasis",
        "sunburn blister",
    ]
    assert conditions.conditions[3].synonyms == ("scaly lichen", "psora")
    assert "showing atopic dermatitis." in " ".join(training_prompts(conditions)[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "condition,code\nAcne,L70.9\nRash,L30.99\n",
            r"my_codes\.csv, row 2: 'L30\.99' is not.*nearest codes: L30\.9 ",
        ),
        ("condition,code\nEczema,Q9Q\n", r"row 1: 'Q9Q' is not an ICD-10-CM code \(ICD-10-CM .*for 'Eczema': L30\.9 "),
        (
            "condition,code\nVitiligo,L80\nEczema,L30\n",
            r"row 2: L30 \(Other and unspecified dermatitis\).*L30\.0 .*L30\.5",
        ),
        ("condition,code\nTooth wear,K03\n", r"header, not a complete code; choose one below it: .* and 5 more"),
        ("condition,code\nAcne,L70.9\nacne ,L70.0\n", r"row 2: 'acne' is already in row 1"),
        ("condition,code\nAcne,L70.9\n,L70.0\n", r"row 2: the condition is empty"),
        ("condition,code\nAcne\n", r"row 1: has 1 fields where the header has 2"),
        ("condition,code\n", r"it has no rows"),
        ("", r"my_codes\.csv: the file is empty"),
        ("condition,icd\nAcne,L70.9\n", r"column 'code' is missing \(columns found: condition, icd\)"),
        (
            "condition,code,description\nAcne,L70.9," + "word " * 37 + "\n",
            r"row 1: the description of 'Acne' has 37 words",
        ),
    ],
)
def test_mistakes_stop_with_the_row_and_suggestions(write, text, message):
    with pytest.raises(UserError, match=message) as error:
        load_conditions(["Acne"], write(text))
    assert "\n" not in str(error.value)


def test_a_condition_that_the_map_lacks(write):
    path = write("condition,code\nPsoriasis,L40.9\nAcne,L70.9\n")
    message = r"my_codes\.csv: condition 2 of the data, 'psorasis', has no row; nearest names: 'Psoriasis'.*L40\.9"
    with pytest.raises(UserError, match=message):
        load_conditions(["acne", "psorasis"], path)


def test_a_missing_or_unreadable_file(write, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_conditions(["Acne"], tmp_path / "nothing.csv")
    found = load_conditions(["Behçet"], write("condition,code\nBehçet,M35.2\n", encoding="latin-1"))
    assert "was read as cp1252" in found.notes[0]
    with pytest.raises(UserError, match="not readable as CSV"):
        load_conditions(["Acne"], write('condition,code\n"Acne,L70.9\n'))


LEAVES = [code.code for code in read_code_book().codes.values() if code.leaf]
cells = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(rows=st.dictionaries(cells, st.sampled_from(LEAVES), min_size=1, max_size=6))
def test_any_valid_map_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("maps") / "map.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("condition", "code"), *rows.items()])
    names = [" ".join(name.split()) for name in rows]
    if not all(names) or len({name.casefold() for name in names}) < len(names):
        with pytest.raises(UserError):
            read_user_map(path)
        return
    found = read_user_map(path)
    assert [(c.name, c.code) for c in found.values()] == list(zip(names, rows.values(), strict=True))


def test_a_condition_without_a_code_stands_at_the_root_and_that_is_said(write):
    path = write("condition,code\nhealthy skin,\nPsoriasis,L40.9\nEczema,L30.9\nother,\n")
    conditions = load_conditions(["healthy skin", "Psoriasis", "Eczema", "other"], path)
    assert conditions.codes == ("", "L40.9", "L30.9", "")
    assert conditions.notes == (
        "2 of 4 conditions have no ICD-10-CM code and stand at the root of the tree, at D = 1 from all others: "
        "'healthy skin', 'other'",
    )
    for measure in ("level", "wu_palmer", "prefix"):
        assert dissimilarity(conditions, measure=measure)[0].tolist() == [0, 1, 1, 1]
    assert tree_text(conditions).splitlines()[-3:] == ["no code", "      –  healthy skin", "      –  other"]
    assert training_prompts(conditions)[0][0] == "A dermatological image showing healthy skin."


def test_where_every_condition_has_a_code_nothing_is_said(write):
    assert load_conditions(["Psoriasis"], write("condition,code\nPsoriasis,L40.9\n")).notes == ()
