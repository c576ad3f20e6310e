import numpy as np
import pytest

from siglip_med.data.sources import CsvSource, Source
from siglip_med.errors import UserError
from tests.data.tables import CSV_COLUMNS, GOOD_CSV, write


def load(folder, text: str = GOOD_CSV, **settings):
    write(folder / "labels.csv", text)
    return CsvSource(root=str(folder), **({**CSV_COLUMNS, **settings})).load()


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
    assert any("1 of 3 images have no condition" in note for note in table.notes)


@pytest.mark.parametrize(
    "text", ["\ufeff" + GOOD_CSV, GOOD_CSV.replace("\n", "\r\n"), GOOD_CSV.replace("\n", "\n\n"), GOOD_CSV.rstrip()]
)
def test_bom_windows_line_ends_and_blank_lines_change_nothing(tmp_path, text):
    good, other = load(tmp_path / "a"), load(tmp_path / "b", text)
    assert good.frame.equals(other.frame)
    np.testing.assert_array_equal(good.labels, other.labels)


def test_latin_1_is_read_when_named_and_refused_when_not(tmp_path):
    path = write(tmp_path / "labels.csv", GOOD_CSV.replace("żółć", "Größe"), "latin-1")
    with pytest.raises(UserError, match=r"labels\.csv, row 4: byte 0xf6 is not utf-8; .*encoding=latin-1"):
        CsvSource(root=str(tmp_path), **CSV_COLUMNS).load()
    table = CsvSource(root=str(tmp_path), encoding="latin-1", **CSV_COLUMNS).load()
    assert table.frame["description"].iloc[3] == "Größe"
    assert path.read_bytes().count(b"\xf6") == 1


def test_what_is_wrong_is_said_with_file_and_row(tmp_path):
    def change(old: str, new: str, **settings) -> str:
        assert old in GOOD_CSV
        return message(tmp_path, GOOD_CSV.replace(old, new), **settings)

    assert "no column 'image'; there are path, condition" in change("image,", "path,")
    assert "labels.csv, row 1: weight 'nan' is outside 0 to 1" in change("0.7|0.3", "nan|0.3")
    assert "labels.csv, row 2: weight '1.2' is outside" in change(",1,p1", ",1.2,p1")
    assert "row 2: weight 'x' is no number" in change(",1,p1", ",x,p1")
    assert "row 1: 2 conditions but 1 weights" in change("0.7|0.3", "1")
    assert "row 1: lists a condition twice" in change("Eczema|Psoriasis", "Acne|Acne")
    assert "row 1: a condition has an empty name" in change("Eczema|Psoriasis", "Eczema|")
    assert "row 3: skin tone '9'" in change("p2,-1", "p2,9")
    assert "row 4: split 'final'" in change(",test,", ",final,")
    assert "row 2: column 'group' is empty" in change("1,p1,IV", "1,,IV")
    assert "row 2: a/1.jpg is listed already in row 1" in change("a/2.jpg", "a/1.jpg")
    assert "row 2: the image path '../2.jpg' leads out" in change("a/2.jpg", "../2.jpg")
    assert "row 2: the image path is empty" in change("a/2.jpg", "")
    assert "row 3: has 9 fields where the header has 10" in change("b/3.jpg,", "")
    assert "not readable as CSV" in change('comma"', "comma")
    assert "row 1: holds the control character '\\x07'" in change("first", "fi\x07rst")
    assert "column 'condition' stands in the header twice" in change("weight,", "condition,")


def test_an_image_in_two_groups_keeps_both_rows(tmp_path):
    table = load(tmp_path, GOOD_CSV.replace("b/3.jpg", "a/1.jpg"))
    assert len(table) == 4  # the split keeps p1 and p2 together: see test_split


def test_empty_files_and_missing_ones(tmp_path):
    header = GOOD_CSV.splitlines()[0]
    assert "holds no row below its header" in message(tmp_path, header + "\n")
    assert "the file is empty" in message(tmp_path, "")
    with pytest.raises(UserError, match=r"other\.csv: no such file"):
        CsvSource(root=str(tmp_path), table="other.csv", **CSV_COLUMNS).prepare()
    with pytest.raises(UserError, match=r"nowhere: no such folder; give data\.source\.root"):
        CsvSource(root=str(tmp_path / "nowhere"), **CSV_COLUMNS).prepare()


def test_conditions_come_in_exactly_one_shape():
    with pytest.raises(UserError, match="either condition_column"):
        CsvSource(root=".", condition_column=None)
    with pytest.raises(UserError, match="either condition_column"):
        CsvSource(root=".", condition_column="a", condition_columns=["b"])
    with pytest.raises(UserError, match="the cells hold the weights"):
        CsvSource(root=".", condition_column=None, condition_columns=["b"], weight_column="w")


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
