"""Labels of another data set against a model's conditions: a table worked out by hand, and files that are wrong."""

import numpy as np
import pytest

from siglip_med.conditions import load_conditions
from siglip_med.conditions.matching import COLUMNS, Match, accepted, match_labels, read_matches, write_matches
from siglip_med.core.errors import UserError

MODEL = load_conditions(["Psoriasis", "Eczema", "Allergic Contact Dermatitis", "Melanoma", "Basal Cell Carcinoma"])
BY_HAND = [
    ("psoriasis", "L40.9", "same name", ("Psoriasis",)),
    ("bcc", "C44.91", "same code", ("Basal Cell Carcinoma",)),
    ("mel", "C43.9", "same code", ("Melanoma",)),
    ("guttate", "L40.4", "finer", ("Psoriasis",)),
    ("melanoma of the back", "C43.59", "finer", ("Melanoma",)),
    ("dermatitis", "L20-L30", "coarser", ("Eczema", "Allergic Contact Dermatitis")),
    ("skin", "12", "coarser", ("Psoriasis", "Eczema", "Allergic Contact Dermatitis")),
    ("contact", "L23", "coarser", ("Allergic Contact Dermatitis",)),
    ("L40", "L40", "coarser", ("Psoriasis",)),
    ("squamous cell carcinoma", "C44.92", "unknown", ()),  # beside basal cell carcinoma, below no condition
    ("wart", "B07.8", "unknown", ()),
    ("artefact of the lens", "", "unknown", ()),
]
CODES = {"guttate": "l404", "melanoma of the back": "C43.59", "dermatitis": "L20-L30", "skin": "12", "contact": "L23"}
LABELS = [row[0] for row in BY_HAND]


@pytest.fixture
def codes(tmp_path):
    path = tmp_path / "codes.csv"
    path.write_text("condition,code\n" + "".join(f"{name},{code}\n" for name, code in CODES.items()))
    return path


def test_every_kind_is_as_worked_out_by_hand(codes):
    assert match_labels(LABELS, MODEL, codes) == tuple(Match(*row) for row in BY_HAND)


def test_an_unspecified_code_of_the_other_set_is_above_what_the_model_tells_apart(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("condition,code\nguttate,L40.4\nplaque,L40.0\n")
    (found,) = match_labels(["Psoriasis"], load_conditions(["guttate", "plaque"], codes=path))
    assert found == Match("Psoriasis", "L40.9", "coarser", ("guttate", "plaque"))


def test_the_nearest_condition_above_is_taken(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("condition,code\npsoriasis,L40.9\narthritis,L40.50\n")  # arthropathic psoriasis, unspecified: L40.5
    model = load_conditions(["psoriasis", "arthritis"], codes=path)
    found = match_labels(["L40.52", "L40.1"], model)
    assert [(one.kind, one.conditions) for one in found] == [("finer", ("arthritis",)), ("finer", ("psoriasis",))]


def test_what_was_written_is_read_again_and_a_change_is_taken(codes, tmp_path):
    matches, path = match_labels(LABELS, MODEL, codes), tmp_path / "matches.csv"
    write_matches(path, matches, range(len(LABELS)), range(len(LABELS)))
    assert read_matches(path, LABELS, MODEL.names) == matches
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    path.write_text(path.read_text().replace("wart,B07.8,unknown,,", "wart,B07.8,finer,melanoma|ECZEMA,"))
    assert read_matches(path, LABELS, MODEL.names)[10] == Match("wart", "B07.8", "finer", ("Melanoma", "Eczema"))


def test_what_is_right_for_each_label():
    found = accepted([Match("a", "", "coarser", ("x", "z")), Match("b", "", "unknown")], ("x", "y", "z"))
    np.testing.assert_array_equal(found, [[True, False, True], [False, False, False]])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("other,,unknown,,", r"row 2: 'other' is no label of the data"),
        ("a,,unknown,,", r"row 2: 'a' is listed before"),
        ("b,,same,x,", r"row 2: kind is 'same'; it is one of same name, same code, coarser, finer, unknown"),
        ("b,,coarser,x | melanom,", r"row 2: 'melanom' is no condition of the model; nearest: 'melanoma'"),
        ("b,,unknown,x,", r"row 2: 'b' names conditions, though its kind is unknown"),
        ("b,,finer,,", r"row 2: 'b' names no condition; its kind is then unknown"),
        ("", r"matches\.csv: no row for 'b', nor for 0 more"),
    ],
)
def test_a_wrong_table_is_one_line_that_names_file_and_row(row, message, tmp_path):
    path = tmp_path / "matches.csv"
    path.write_text(f"external,code,kind,model conditions,images\na,,same name,x,1\n{row}\n")
    with pytest.raises(UserError, match=message) as caught:
        read_matches(path, ["a", "b"], ("x", "melanoma"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"), [("a,L99999", r"row 1: 'L99999' is no code, category"), (",L40", r"row 1: condition '' is")]
)
def test_a_wrong_file_of_codes_is_one_line(row, message, tmp_path):
    path = tmp_path / "codes.csv"
    path.write_text(f"condition,code\n{row}\n")
    with pytest.raises(UserError, match=message):
        match_labels(["a"], MODEL, path)
