import unicodedata

import numpy as np
import pytest

from experiments.study import composed
from siglip_med.core.config import instantiate
from siglip_med.core.errors import UserError
from siglip_med.data.accounting import LeftOut
from siglip_med.data.source import Source
from siglip_med.sources import CsvSource
from tests.data.tables import CSV_COLUMNS, GOOD_CSV, write


def load(folder, text: str = GOOD_CSV, **settings):
    write(folder / "labels.csv", text)
    return CsvSource(root=str(folder), **CSV_COLUMNS | settings).load()


def plain(folder, text: str, **settings):
    """Of a table with other columns than `GOOD_CSV`."""
    write(folder / "labels.csv", text)
    return CsvSource(root=str(folder), **settings).load()


def plain_message(folder, text: str, **settings) -> str:
    with pytest.raises(UserError) as error:
        plain(folder, text, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def message(folder, text: str, **settings) -> str:
    with pytest.raises(UserError) as error:
        load(folder, text, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_column_is_read(tmp_path):
    table = load(tmp_path)
    assert table.conditions == ("Abrasion, scrape", "Acne", "Eczema", "Psoriasis")
    np.testing.assert_allclose(table.labels, [[0, 0, 0.7, 0.3], [0, 0, 0, 1], [0, 0.5, 0, 0], [1, 0, 0, 0]])
    frame = table.frame
    assert frame["primary"].tolist() == [2, 3, 1, 0]
    assert frame["image"].tolist() == ["a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"]
    assert frame["case"].tolist() == ["p1", "p1", "p2", "p3"]
    assert frame["skin_tone"].tolist() == ["3", "4", "", "6"]
    assert frame["sex"].tolist() == ["female", "female", "male", ""]
    assert frame["age_group"].tolist() == ["50-59", "50-59", "", "30-39"]
    assert frame["source_split"].tolist() == ["train", "train", "val", "test"]
    assert frame["description"].tolist() == ["first", "second, with a comma", "", "żółć"]
    assert frame["source_row"].tolist() == [1, 2, 3, 4]
    assert table.root == tmp_path
    assert isinstance(CsvSource(root="x", condition_column="y"), Source)


def test_one_column_a_condition(tmp_path):
    text = "file,Acne,Scar,who\n1,1,0,p\n2,0.4,0.6,q\n3,,,q\n"
    table = load(
        tmp_path,
        text,
        image_column="file",
        image_folder="photos",
        image_suffix=".png",
        condition_columns=["Scar", "Acne"],
        **dict.fromkeys(CSV_COLUMNS, None),
    )
    assert table.frame["image"].tolist() == ["photos/1.png", "photos/2.png"]
    np.testing.assert_allclose(table.labels, [[1, 0], [0.4, 0.6]])
    assert table.conditions == ("Acne", "Scar")
    assert any("each image is its own case" in note for note in table.notes)
    assert table.left_out == (LeftOut("no condition", 1),)
    assert table.read == 3


@pytest.mark.parametrize(
    "text", ["\ufeff" + GOOD_CSV, GOOD_CSV.replace("\n", "\r\n"), GOOD_CSV.replace("\n", "\n\n"), GOOD_CSV.rstrip()]
)
def test_bom_windows_line_ends_and_blank_lines_change_nothing(tmp_path, text):
    good, other = load(tmp_path / "a"), load(tmp_path / "b", text)
    assert good.frame.equals(other.frame)
    np.testing.assert_array_equal(good.labels, other.labels)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiter_and_encoding_are_found(tmp_path, encoding, delimiter):
    text = delimiter.join(["image", "condition", "age"]) + "\n" + delimiter.join(["ü.jpg", "Größe", "4"]) + "\n"
    write(tmp_path / "labels.csv", text, encoding)
    table = CsvSource(root=str(tmp_path), age_column="age").load()
    assert table.frame["image"].tolist() == ["ü.jpg"]
    assert table.conditions == ("Größe",)
    said = [note for note in table.notes if "read as cp1252" in note]
    assert len(said) == (encoding in ("latin-1", "cp1252"))


def test_an_encoding_that_is_named_is_held_to(tmp_path):
    write(tmp_path / "labels.csv", GOOD_CSV.replace("żółć", "Größe"), "latin-1")
    with pytest.raises(UserError, match=r"labels\.csv, row 4: byte 0xf6 is not utf-8; .*encoding=latin-1"):
        CsvSource(root=str(tmp_path), encoding="utf-8", **CSV_COLUMNS).load()
    table = CsvSource(root=str(tmp_path), encoding="latin-1", **CSV_COLUMNS).load()
    assert table.frame["description"].iloc[3] == "Größe"


def test_a_german_excel_export_is_read_with_no_option(tmp_path):
    text = "sep=;\r\nimage;condition;;\r\n1.jpg;Flechte, blühend;;\r\n2.jpg;Ekzem;;\r\n;;;\r\n;;;\r\n"
    write(tmp_path / "labels.csv", text, "cp1252")
    table = CsvSource(root=str(tmp_path)).load()
    assert table.conditions == ("Ekzem", "Flechte, blühend")
    assert table.left_out == (LeftOut("rows without any text", 2),)
    assert table.read == 4


def test_cells_of_a_condition_column_come_in_many_spellings(tmp_path):
    cells = {
        "True": 1,
        "false": 0,
        "yes": 1,
        "No": 0,
        "x": 1,
        "": 0,
        "n/a": 0,
        "1": 1,
        "0,5": 0.5,
        "0.25": 0.25,
        "ja": 1,
    }
    rows = "".join(f'{place}.jpg,1,"{cell}"\n' for place, cell in enumerate(cells))
    table = plain(tmp_path, "image,Scar,Acne\n" + rows, condition_columns=["Acne", "Scar"])
    np.testing.assert_allclose(table.labels[:, 0], list(cells.values()))
    said = plain_message(tmp_path, "image,Acne\n1.jpg,maybe\n", condition_columns=["Acne"])
    assert "row 1, column 'Acne': weight 'maybe'" in said


def test_columns_are_conditions_by_prefix_or_by_being_no_others(tmp_path):
    text = "image,label_Acne,label_Scar,age\n1.jpg,1,0,\n2.jpg,0,1,3\n"
    assert plain(tmp_path, text, condition_prefix="label_").conditions == ("Acne", "Scar")
    table = plain(tmp_path, text, condition_columns_except=["IMAGE", "age"])
    assert table.conditions == ("label_Acne", "label_Scar")


def test_columns_that_yaml_takes_for_numbers_are_found(tmp_path):
    text = "image,0,INF,No\n1.jpg,1,0,0\n2.jpg,0,1,1\n"
    table = plain(tmp_path, text, condition_columns=[0, float("inf")])
    assert table.conditions == ("0", "INF")


def test_all_missing_columns_are_named_at_once(tmp_path):
    said = plain_message(tmp_path, "image,A\n1.jpg,1\n", condition_columns=["A", "B", "C"])
    assert "no column 'B', 'C'; there are image, A" in said


def test_a_binary_target_is_named_by_aliases(tmp_path):
    text = "image,target\n1.jpg,1\n2.jpg,0\n3.jpg,0\n4.jpg,\n"
    table = plain(tmp_path, text, condition_column="target", aliases={"1": "Melanoma", "0": "Nevus"})
    assert table.conditions == ("Melanoma", "Nevus")
    assert (table.labels > 0).sum(axis=0).tolist() == [1, 2]
    assert table.left_out == (LeftOut("no condition", 1),)


@pytest.mark.parametrize(
    ("cells", "aliases"),
    [
        (("1", "0"), {1: "Melanoma", 0: "Nevus"}),
        (("1.0", "0.0"), {1.0: "Melanoma", 0.0: "Nevus"}),
        (("True", "False"), {True: "Melanoma", False: "Nevus"}),
        (("TRUE", "false"), {True: "Melanoma", False: "Nevus"}),
        (("1", "0"), "@names.csv"),
        (("C43 (in situ), left", "[0]"), "@names.csv"),
    ],
)
def test_names_that_yaml_takes_for_numbers_are_aliases_and_so_is_a_file(tmp_path, cells, aliases):
    write(tmp_path / "names.csv", f'theirs,ours\n"{cells[0]}",Melanoma\n{cells[1]},Nevus\nscar,\n')
    text = f'image,target\n1.jpg,"{cells[0]}"\n2.jpg,{cells[1]}\n3.jpg,{cells[1]}\n4.jpg,scar\n'
    table = plain(tmp_path, text, condition_column="target", aliases=aliases)
    if isinstance(aliases, str):
        assert table.conditions == ("Melanoma", "Nevus")
        assert table.left_out == (LeftOut("every condition is left out by data.source.aliases", 1, asked=True),)
    else:
        assert table.conditions == ("Melanoma", "Nevus", "scar")
    assert (table.labels > 0).sum(axis=0).tolist()[:2] == [1, 2]
    assert not any("aliases name no condition" in note for note in table.notes)


def test_aliases_of_numbers_are_typed_on_the_command_line(tmp_path):
    write(tmp_path / "labels.csv", "image,target\n1.jpg,1\n2.jpg,0\n")
    words = ["data=csv", f"data.source.root={tmp_path}", "data.source.condition_column=target"]
    for word in ("data.source.aliases={1: Melanoma, 0: Nevus}", "data.source.aliases=@names.csv"):
        write(tmp_path / "names.csv", "a,b\n1,Melanoma\n0,Nevus\n")
        assert instantiate(composed((*words, word)).data["source"]).load().conditions == ("Melanoma", "Nevus")


def test_a_file_of_aliases_has_two_columns(tmp_path):
    write(tmp_path / "names.csv", "a,b,c\n1,2,3\n")
    assert "names.csv: has 3 columns" in plain_message(tmp_path, "image,condition\n1.jpg,x\n", aliases="@names.csv")


def test_rows_are_kept_by_a_columns_value(tmp_path):
    text = "image,condition,Kind,ok\n1.jpg,a,Dermoscopic,1.0\n2.jpg,a,clinical,1\n3.jpg,b,dermoscopic,0\n4.jpg,b,x,\n"
    write(tmp_path / "labels.csv", text)
    words = ["data=csv", f"data.source.root={tmp_path}", "data.source.where={kind: [dermoscopic, clinical], ok: 1}"]
    table = instantiate(composed(tuple(words)).data["source"]).load()
    assert table.frame["image"].tolist() == ["1.jpg", "2.jpg"]
    assert table.left_out == (
        LeftOut("data.source.where: Kind is another", 1, asked=True),
        LeftOut("data.source.where: ok is another", 1, asked=True),
    )
    assert "no column 'absent'" in plain_message(tmp_path, text, where={"absent": "x"})
    assert "data.source.where: Kind is another" in plain_message(tmp_path, text, where={"kind": "none of them"})


def test_a_column_without_any_positive_is_said(tmp_path):
    table = plain(tmp_path, "image,A,B,C\n1.jpg,1,0,\n2.jpg,1,0,0\n", condition_columns=["A", "B", "C"])
    assert any(
        note.startswith("2 columns of conditions have no positive") and "'B', 'C'" in note for note in table.notes
    )


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_folder_whose_accents_are_composed_otherwise_is_found(tmp_path, form):
    other = "NFD" if form == "NFC" else "NFC"
    folder = tmp_path / unicodedata.normalize(form, "Ekz\u00e9me") / "Sub"
    folder.mkdir(parents=True)
    (folder / "1.JPG").touch()
    asked = unicodedata.normalize(other, "Ekz\u00e9me") + "/sub/1.jpg"
    table = plain(tmp_path, f"image,condition\n{asked},x\n")
    assert (tmp_path / table.frame["image"][0]).is_file()
    assert any("spelled otherwise" in note for note in table.notes)


def test_an_alias_that_differs_in_letter_case_names_nothing_and_that_is_said(tmp_path):
    table = plain(tmp_path, "image,condition\n1.jpg,acne\n2.jpg,scar\n", aliases={"Acne": "Acne vulgaris"})
    assert table.conditions == ("acne", "scar")
    assert any("aliases that name no condition of the data: 1, the first 'Acne'" in note for note in table.notes)


def test_aliases_merge_conditions_and_leave_some_out(tmp_path):
    text = "image,condition\n1.jpg,clark nevus\n2.jpg,blue nevus\n3.jpg,misc\n4.jpg,Melanoma\n"
    aliases = {"clark nevus": "Nevus", "blue nevus": "Nevus", "misc": None, "typo": "Nevus"}
    table = plain(tmp_path, text, aliases=aliases)
    assert table.conditions == ("Melanoma", "Nevus")
    assert table.left_out == (LeftOut("every condition is left out by data.source.aliases", 1, asked=True),)
    assert any("aliases that name no condition of the data: 1, the first 'typo'" in note for note in table.notes)


def test_a_second_table_is_joined_by_a_key(tmp_path):
    write(tmp_path / "truth.csv", "lesion,MEL,NV\nL1,1,0\nL2,0,1\n")
    text = "lesion,id,site\nL1,a,arm\nL1,b,arm\nL2,c,leg\nL9,d,leg\n"
    settings = {"join_table": "truth.csv", "join_key": "lesion", "condition_columns": ["MEL", "NV"]}
    table = plain(tmp_path, text, **settings, image_column="{lesion}/{id}", image_suffix=".jpg", image_folder="in")
    assert table.frame["image"].tolist() == ["in/L1/a.jpg", "in/L1/b.jpg", "in/L2/c.jpg"]
    np.testing.assert_array_equal(table.labels, [[1, 0], [1, 0], [0, 1]])
    assert table.left_out == (LeftOut("no row of truth.csv has the same lesion", 1),)
    write(tmp_path / "truth.csv", "lesion,MEL,NV\nL1,1,0\nL1,0,1\n")
    assert "truth.csv, row 2: lesion 'L1' occurs twice (row 1 has it" in plain_message(
        tmp_path, text, **settings, image_column="id"
    )


@pytest.mark.parametrize("spelling", ["unknown", "", "N/A", "-1", "nan", "Not Known", "?", "keine Angabe"])
def test_a_group_that_is_not_known_is_no_giant_patient(tmp_path, spelling):
    rows = "".join(f"{i}.jpg,Acne,{spelling if i < 55 else f'p{i // 2}'}\n" for i in range(60))
    table = plain(tmp_path, "image,condition,group\n" + rows, group_column="group")
    assert len(set(table.cases[:55])) == 55
    assert any("55 of 60 images do not say whose they are" in note for note in table.notes)


@pytest.mark.parametrize("age", ["23,5", "23.5", "23", "23 years", "23 Jahre"])
def test_an_age_in_any_spelling_is_its_decade(tmp_path, age):
    table = plain(tmp_path, f'image,condition,age\n1.jpg,Acne,"{age}"\n', age_column="age")
    assert table.frame["age_group"].tolist() == ["20-29"]


@pytest.mark.parametrize(
    ("tone", "read"), [("12", "1-2"), ("34", "3-4"), ("V-VI", "5-6"), ("3/4", "3-4"), ("III", "3")]
)
def test_tones_that_come_in_pairs_are_kept_as_pairs(tmp_path, tone, read):
    table = plain(tmp_path, f"image,condition,tone\n1.jpg,Acne,{tone}\n", skin_tone_column="tone")
    assert table.frame["skin_tone"].tolist() == [read]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04rest", "is no CSV but an Excel workbook"),
        (b"\x1f\x8brest", "is no CSV but compressed"),
        (b"image,condition\n1.jpg,\x81\n", "row 1: byte 0x81 is neither UTF-8 nor cp1252"),
        (b"\xef\xbb\xbfimage,condition\n\x81.jpg,Acne\n", "row 1: byte 0x81 is neither UTF-8 nor cp1252"),
    ],
)
def test_files_that_are_no_text_are_named(tmp_path, content, said):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UserError) as error:
        CsvSource(root=str(tmp_path)).load()
    assert said in str(error.value)


def test_a_wrong_delimiter_is_named(tmp_path):
    said = plain_message(tmp_path, "image;condition\n1.jpg;Acne\n", delimiter=",")
    assert "its delimiter looks like ';', not ','" in said


def test_names_on_the_disk_may_differ_in_case_and_accents(tmp_path):
    for name in ("A.JPG", unicodedata.normalize("NFD", "ü.jpg"), "twice.jpg", "TWICE.jpg"):
        write(tmp_path / name, "x")
    text = "image,condition\na.jpg,Acne\n" + unicodedata.normalize("NFC", "ü.jpg") + ",Acne\nTwice.jpg,Acne\n"
    table = plain(tmp_path, text)
    assert [(table.root / image).is_file() for image in table.frame["image"]] == [True, True, False]
    assert any("2 images are spelled otherwise than their files" in note for note in table.notes)


def test_what_is_wrong_is_said_with_file_and_row(tmp_path):
    def change(old: str, new: str, **settings) -> str:
        assert old in GOOD_CSV
        return message(tmp_path, GOOD_CSV.replace(old, new), **settings)

    assert "no column 'image'; there are path, condition" in change("image,", "path,")
    assert "labels.csv, row 1, column 'weight': weight 'nan' is outside 0 to 1" in change("0.7|0.3", "nan|0.3")
    assert "labels.csv, row 2, column 'weight': weight '1.2' is outside" in change(",1,p1", ",1.2,p1")
    assert "row 2, column 'weight': weight 'x' is no number" in change(",1,p1", ",x,p1")
    assert "row 1, column 'weight': 2 conditions but 1 weights" in change("0.7|0.3", "1")
    assert "row 1, column 'condition': lists a condition twice" in change("Eczema|Psoriasis", "Acne|Acne")
    assert "row 1, column 'condition': a condition has an empty name" in change("Eczema|Psoriasis", "Eczema|")
    assert "row 3, column 'tone': skin tone '9'" in change("p2,-1", "p2,9")
    assert "row 4, column 'split': split 'final'" in change(",test,", ",final,")
    assert "row 2: a/1.jpg is listed already in row 1" in change("a/2.jpg", "a/1.jpg")
    assert "row 2: the image path '../2.jpg' leads out" in change("a/2.jpg", "../2.jpg")
    assert "row 2: the image path is empty" in change("a/2.jpg", "")
    assert "row 3: has 9 fields where the header has 10" in change("b/3.jpg,", "")
    assert "not readable as CSV" in change('comma"', "comma")
    assert "row 1: column 'note' holds the control character '\\x07'" in change("first", "fi\x07rst")
    assert "column 'condition' occurs twice in the header" in change("weight,", "condition,")


def test_an_image_in_two_groups_keeps_both_rows(tmp_path):
    table = load(tmp_path, GOOD_CSV.replace("b/3.jpg", "a/1.jpg"))
    assert len(table) == 4  # the split keeps p1 and p2 together: see test_split


def test_empty_files_and_missing_ones(tmp_path):
    header = GOOD_CSV.splitlines()[0]
    assert "holds no row below its header" in message(tmp_path, header + "\n")
    assert "the file is empty" in message(tmp_path, "")
    with pytest.raises(
        UserError, match=r"other\.csv: no such file; .* data\.source\.table\); beside it .* labels\.csv$"
    ):
        CsvSource(root=str(tmp_path), table="other.csv", **CSV_COLUMNS).prepare()
    with pytest.raises(UserError, match=r"nowhere: no such folder; give data\.source\.root"):
        CsvSource(root=str(tmp_path / "nowhere"), **CSV_COLUMNS).prepare()


def test_conditions_come_in_exactly_one_shape():
    with pytest.raises(UserError, match="give one of condition_column and condition_columns; set the other to null"):
        CsvSource(root=".", condition_column="a", condition_columns=["b"])
    with pytest.raises(UserError, match="the cells hold the weights"):
        CsvSource(root=".", condition_columns=["b"], weight_column="w")


def test_real_photographs_of_fitzpatrick17k(shared):
    table = CsvSource(
        root=str(shared / "data/fitzpatrick17k"),
        condition_column="condition",
        group_column="near_dup_group",
        skin_tone_column="skin_tone",
    ).load()
    assert (len(table), len(table.conditions), len(set(table.cases))) == (4087, 21, 4033)
    counts = (table.labels > 0).sum(axis=0)
    assert (counts.min(), counts.max()) == (62, 581)
    assert (table.frame["skin_tone"] != "").sum() == 3943
    assert all((table.root / image).is_file() for image in table.frame["image"][::500])
