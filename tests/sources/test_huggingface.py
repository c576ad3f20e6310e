import json
import shutil

import numpy as np
import pytest
from PIL import Image

from siglip_med.core.errors import UserError
from siglip_med.data.accounting import LeftOut
from siglip_med.sources import HuggingFaceSource

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A data set with two splits, class labels, lists of labels and a patient, saved to disk."""
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "dx": datasets.ClassLabel(names=["Acne", "Scar"]),
            "all": datasets.Sequence(datasets.Value("string")),
            "patient": datasets.Value("int64"),
            "tone": datasets.Value("string"),
        }
    )
    folder = tmp_path_factory.mktemp("hf")

    def part(name: str, count: int):
        rows = {"photo": [], "dx": [], "all": [], "patient": [], "tone": []}
        for number in range(count):
            path = folder / f"{name}{number}.png"
            Image.fromarray(np.full((5, 7, 3), number * 20, dtype=np.uint8)).save(path)
            rows["photo"].append(str(path))
            rows["dx"].append(number % 2)
            rows["all"].append(["Acne", "Scar, old"] if number % 2 else [])
            rows["patient"].append(number // 2)
            rows["tone"].append("IV" if number else None)
        return datasets.Dataset.from_dict(rows, features=features)

    path = folder / "saved"
    datasets.DatasetDict({"train": part("t", 4), "validation": part("v", 2)}).save_to_disk(str(path))
    return path


def source(saved, root, **settings) -> HuggingFaceSource:
    columns = {"image_column": "photo", "condition_column": "dx", "group_column": "patient", "skin_tone_column": "tone"}
    return HuggingFaceSource(root=str(root), dataset=str(saved), **{**columns, **settings})


def test_export_and_table(saved, tmp_path):
    one = source(saved, tmp_path)
    one.prepare()
    table = one.load()
    assert table.conditions == ("Acne", "Scar")
    assert table.frame["primary"].tolist() == [0, 1, 0, 1, 0, 1]
    assert table.frame["source_split"].tolist() == ["train"] * 4 + ["val"] * 2
    assert table.frame["case"].tolist() == ["0", "0", "1", "1", "0", "0"]
    assert table.frame["skin_tone"].tolist() == ["", "4", "4", "4", "", "4"]
    for image, number in zip(table.frame["image"], [0, 1, 2, 3, 0, 1], strict=True):
        assert np.asarray(Image.open(tmp_path / image)).shape == (5, 7, 3)
        assert np.asarray(Image.open(tmp_path / image)).max() == number * 20
    assert not list(tmp_path.rglob("*.part"))


def test_lists_of_conditions_and_one_split(saved, tmp_path):
    one = source(saved, tmp_path, condition_column="all", split="train")
    one.prepare()
    table = one.load()
    assert table.conditions == ("Acne", "Scar, old")
    np.testing.assert_array_equal(table.labels, [[1, 1], [1, 1]])
    assert table.left_out == (LeftOut("no condition", 2),)
    assert table.read == 4


def test_a_second_export_is_not_made_and_another_is_refused(saved, tmp_path):
    source(saved, tmp_path).prepare()
    before = (tmp_path / "labels.csv").stat().st_mtime_ns
    source(saved, tmp_path, minimum_images=2).prepare()
    assert (tmp_path / "labels.csv").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"holds another export; give another data\.source\.root"):
        source(saved, tmp_path, split="train").prepare()


def test_an_older_export_is_taken_and_what_is_said_of_the_data_does_not_make_another(saved, tmp_path):
    source(saved, tmp_path).prepare()
    stamp = json.loads((tmp_path / "export.json").read_text())
    later = {"streaming", "side", "data_files", "counts"}
    older = {name: value for name, value in stamp.items() if name not in later} | {"license": None}
    (tmp_path / "export.json").write_text(json.dumps(older))
    assert len(loaded(source(saved, tmp_path, license="CC BY 4.0"))) == 6
    with pytest.raises(UserError, match=r"holds another export"):
        source(saved, tmp_path, side=9).prepare()


def loaded(one):
    one.prepare()
    return one.load()


def test_an_export_of_a_data_set_that_has_changed_is_refused(saved, tmp_path):
    grown = tmp_path / "grown"
    shutil.copytree(saved, grown)
    source(grown, tmp_path / "export").prepare()
    (grown / "train" / "more.arrow").write_bytes(b"x")
    with pytest.raises(UserError, match=r"was exported before .*grown changed; remove the folder"):
        source(grown, tmp_path / "export").prepare()


def test_one_column_a_condition(tmp_path):
    paths = []
    for number in range(3):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(np.full((9, 9, 3), number, dtype=np.uint8)).save(paths[-1])
    rows = {"image": paths, "Scar": [1, 0, 0], "Acne": [True, True, False]}
    features = {"image": datasets.Image(), "Scar": datasets.Value("int64"), "Acne": datasets.Value("bool")}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).save_to_disk(str(tmp_path / "saved"))
    tables = []
    for place, columns in enumerate((["Scar", "Acne"], ["Acne", "Scar"])):
        one = HuggingFaceSource(
            root=str(tmp_path / f"out{place}"), dataset=str(tmp_path / "saved"), condition_columns=columns
        )
        one.prepare()
        tables.append(one.load())
    np.testing.assert_array_equal(tables[0].labels, [[1, 1], [1, 0]])
    assert tables[0].frame.equals(tables[1].frame)
    assert tables[0].left_out == (LeftOut("no condition", 1),)


def test_what_is_wrong_is_said(saved, tmp_path):
    with pytest.raises(UserError, match=r"no column 'label'; there are photo, dx, all"):
        source(saved, tmp_path, condition_column="label").prepare()
    with pytest.raises(UserError, match=r"no column 'dx2'"):
        source(saved, tmp_path, group_column="dx2").prepare()
    with pytest.raises(UserError, match=r"has no split 'final'; there are train, validation"):
        source(saved, tmp_path, split="final").prepare()
    (tmp_path / "junk").mkdir()
    with pytest.raises(UserError, match=r"data\.source\.dataset=.*junk: cannot be loaded"):
        source(tmp_path / "junk", tmp_path).prepare()
    assert not (tmp_path / "labels.csv").exists()


@pytest.mark.parametrize("kind", ["numbers", "classes", "flags"])
def test_a_vector_of_zeros_and_ones_is_no_list_of_names(tmp_path, kind):
    inner = {"numbers": datasets.Value("int8"), "classes": datasets.ClassLabel(names=["no", "yes"]),
             "flags": datasets.Value("bool")}[kind]  # fmt: skip
    features = datasets.Features({"photo": datasets.Image(), "dx": datasets.Sequence(inner)})
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.png")
    rows = {"photo": [str(tmp_path / "a.png")], "dx": [[0, 1, 1]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    one = source(tmp_path / "saved", tmp_path / "out", group_column=None, skin_tone_column=None)
    with pytest.raises(UserError, match=r"row 1, column 'dx': .* is one value for each condition.*condition_columns"):
        one.prepare()


def test_nothing_in_a_list_of_classes_is_not_known(tmp_path):
    classes = datasets.Sequence(datasets.ClassLabel(names=["Acne", "Scar"]))
    features = datasets.Features({"photo": datasets.Image(), "dx": classes})
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.png")
    rows = {"photo": [str(tmp_path / "a.png")] * 2, "dx": [[None, 1], [0]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    one = source(tmp_path / "saved", tmp_path / "out", group_column=None, skin_tone_column=None)
    one.prepare()
    assert one.load().labels.tolist() == [[0, 1], [1, 0]]
