"""Which settings a table asks for: found from columns, cells and files, and that a source reads it with them."""

import pytest

from siglip_med.core.csv_reading import read_csv
from siglip_med.data.fitting import fitting
from siglip_med.data.naming import same_names, separator_of
from siglip_med.sources import CsvSource

DEFAULTS = {"image_column": "image", "image_folder": "", "image_suffix": ""}


def found(root, lines, files=(), **source):
    """Key -> value of what fits a table beside some files, and the source with all of it."""
    (root / "labels.csv").write_text("\n".join(lines))
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"")
    text = read_csv(root / "labels.csv")
    fits = fitting(text, {"root": str(root), **DEFAULTS, **source})
    inside = {fit.key.removeprefix("data.source."): fit.value for fit in fits if fit.key.startswith("data.source.")}
    return {fit.key: fit.value for fit in fits}, CsvSource(root=str(root), **source | inside)


def test_a_table_that_fits_asks_for_nothing(tmp_path):
    lines = ["image,condition", "a.jpg,Eczema", "b.jpg,Psoriasis"]
    assert found(tmp_path, lines, ["a.jpg", "b.jpg"])[0] == {}


def test_columns_folder_suffix_separator_group_and_people_are_found(tmp_path):
    lines = [
        "Nr;Photo;Dx;Patient-ID;FST;Gender;Age;Localization;remark",
        "1;p1;Eczema|Psoriasis;A;I;f;30;arm;x",
        "2;p2;Eczema;A;IV;m;40;leg;y",
        "3;p3;Melanoma;B;;f;;arm;z",
        "4;p4;Psoriasis|Melanoma;B;2;f;50;arm;z",
    ]
    fits, source = found(tmp_path, lines, [f"pictures/p{n}.jpg" for n in (1, 2, 3, 4)])
    expected = {
        "image_column": "Photo",
        "image_folder": "pictures",
        "image_suffix": ".jpg",
        "condition_column": "Dx",
        "condition_separator": "|",
        "group_column": "Patient-ID",
        "skin_tone_column": "FST",
        "sex_column": "Gender",
        "age_column": "Age",
        "site_column": "Localization",
    }
    assert fits == {f"data.source.{key}": value for key, value in expected.items()}
    table = source.load()
    assert table.frame["image"].tolist() == [f"pictures/p{n}.jpg" for n in (1, 2, 3, 4)]
    assert table.conditions == ("Eczema", "Melanoma", "Psoriasis")
    assert table.frame["case"].tolist() == ["A", "A", "B", "B"]


def test_a_column_that_is_given_is_not_left_for_one_that_finds_more_files(tmp_path):
    lines = ["image,file,condition", "a,a.jpg,Eczema", "b,b.jpg,Eczema", "gone,c.jpg,Psoriasis"]
    fits, _ = found(tmp_path, lines, ["data/a.jpg", "data/b.jpg", "data/c.jpg"])
    assert fits == {"data.source.image_folder": "data", "data.source.image_suffix": ".jpg"}


def test_a_group_that_never_repeats_and_what_is_given_are_left_alone(tmp_path):
    lines = ["image,condition,patient,sex", "a.jpg,Eczema,1,f", "b.jpg,Psoriasis,2,m"]
    fits, _ = found(tmp_path, lines, ["a.jpg", "b.jpg"], sex_column="sex")
    assert fits == {}


def test_columns_of_flags_are_conditions(tmp_path):
    lines = ["image,Eczema,Psoriasis,score", "a.jpg,1,0,7", "b.jpg,0,yes,8", "c.jpg,x,1,9"]
    fits, source = found(tmp_path, lines, ["a.jpg", "b.jpg", "c.jpg"])
    assert fits == {"data.source.condition_columns": ["Eczema", "Psoriasis"]}
    assert source.load().labels.tolist() == [[1, 0], [0, 1], [1, 1]]


def test_a_split_of_the_table_comes_with_its_splitter(tmp_path):
    lines = ["image,condition,split", "a.jpg,Eczema,train", "b.jpg,Psoriasis,test"]
    fits, _ = found(tmp_path, lines, ["a.jpg", "b.jpg"])
    assert fits == {"data.source.split_column": "split", "data/splitter": "given"}


def test_one_odd_skin_type_in_many_does_not_hide_the_column(tmp_path):
    rows = [f"{n}.jpg,{'Eczema' if n % 2 else 'Psoriasis'},{n % 6 + 1}" for n in range(40)]
    files = [f"{n}.jpg" for n in range(40)]
    lines = ["image,condition,skin type", *rows[:-1], "39.jpg,Eczema,9"]
    assert found(tmp_path, lines, files)[0] == {"data.source.skin_tone_column": "skin type"}
    lines[1:6] = [row[:-1] + "9" for row in lines[1:6]]
    assert found(tmp_path, lines, files)[0] == {}


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["Eczema|Psoriasis", "Eczema"], "|"),
        (["Eczema, Psoriasis", "Melanoma"], ","),
        (["strange a/strange b", "strange a", "strange b"], "/"),
        (["Tinea, of the foot", "Eczema"], ""),
        (["Eczema", "Psoriasis"], ""),
        (["SCC/SCCIS", "Eczema"], ""),  # a name of SCIN's
        (["strange a, left", "strange b, right", "Eczema, Psoriasis"], ""),
    ],
)
def test_a_separator_stands_between_conditions(cells, separator):
    assert separator_of(cells) == separator


def test_names_of_one_condition_and_misspelled_ones_become_the_most_frequent():
    names = ["Eczema"] * 3 + [
        "eczema",
        "Psoriasis",
        "psoriassis",
        "melanoma",
        "melanoma",
        "mel",
        "n/a",
        "quite another",
    ]
    assert same_names(names) == {"eczema": "Eczema", "psoriassis": "Psoriasis", "mel": "melanoma"}
    assert same_names(["Ekzema", "Eczema"]) == {"Ekzema": "Eczema"}
    assert same_names(["melanomma", "melanomma"]) == {"melanomma": same_names(["melanomma"])["melanomma"]}


def test_aliases_are_found_unless_the_user_has_codes_or_a_file_of_aliases(tmp_path):
    lines = ["image,condition", "a.jpg,Eczema", "b.jpg,eczema", "c.jpg,Psoriasis"]
    files = ["a.jpg", "b.jpg", "c.jpg"]
    fits, source = found(tmp_path, lines, files)
    assert fits == {"data.source.aliases": {"eczema": "Eczema"}}
    assert source.load().conditions == ("Eczema", "Psoriasis")
    assert found(tmp_path, lines, files, aliases="@names.csv")[0] == {}
    both = {"Psoriasis": "x", "eczema": "Eczema"}
    assert found(tmp_path, lines, files, aliases={"Psoriasis": "x"})[0] == {"data.source.aliases": both}
    assert fitting(read_csv(tmp_path / "labels.csv"), {"root": str(tmp_path), **DEFAULTS}, coded=True) == []


def test_unknown_names_are_left_out_where_most_are_known_and_never_beyond(tmp_path):
    rows = ["a.jpg,Eczema", "b.jpg,Psoriassis", "c.jpg,Mondflechte"]
    fits, source = found(tmp_path, ["image,condition", *rows], ["a.jpg", "b.jpg", "c.jpg"])
    assert fits == {"data.source.aliases": {"Psoriassis": "Psoriasis", "Mondflechte": None}}
    assert source.load().conditions == ("Eczema", "Psoriasis")
    given = {"aliases": {"Mondflechte": "Acne"}}
    fits, _ = found(tmp_path, ["image,condition", *rows], ["a.jpg", "b.jpg", "c.jpg"], **given)
    assert fits == {"data.source.aliases": {"Mondflechte": "Acne", "Psoriassis": "Psoriasis"}}
    strange = ["image,condition", rows[0], "b.jpg,Sternflechte", "c.jpg,Mondflechte"]
    assert found(tmp_path, strange, ["a.jpg", "b.jpg", "c.jpg"])[0] == {}
