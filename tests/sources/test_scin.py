import csv
import io

import numpy as np
import pandas as pd
import pytest

from siglip_med.conditions import known_conditions
from siglip_med.core.errors import UserError
from siglip_med.data.accounting import LeftOut
from siglip_med.sources import ScinSource
from siglip_med.sources.scin import NEVER_PUBLISHED
from tests.data.tables import write

CASE_COLUMNS = [
    *("case_id", "age_group", "sex_at_birth", "fitzpatrick_skin_type", "related_category", "condition_duration"),
    *("image_1_path", "image_2_path", "image_3_path", "textures_raised_or_bumpy", "body_parts_arm", "body_parts_leg"),
    "condition_symptoms_itching",
]
LABEL_COLUMNS = [
    "case_id",
    *(f"dermatologist_gradable_for_skin_condition_{grader}" for grader in (1, 2, 3)),
    "weighted_skin_condition_label",
    "dermatologist_fitzpatrick_skin_type_label_1",
]
GOOD, BAD = "DEFAULT_YES_IMAGE_QUALITY_SUFFICIENT", "NO_IMAGE_QUALITY_INSUFFICIENT"
P = "dataset/images/"

CASES = [
    [
        "-11",
        "AGE_18_TO_29",
        "FEMALE",
        "FST4",
        "RASH",
        "ONE_DAY",
        P + "-1.png",
        P + "-2.png",
        "",
        "YES",
        "YES",
        "",
        "YES",
    ],
    ["-12", "AGE_UNKNOWN", "OTHER_OR_UNSPECIFIED", "", "", "", P + "-3.png", "", "", "", "", "", ""],
    ["13", "", "MALE", "NONE_IDENTIFIED", "ACNE", "UNKNOWN", P + "4.png", "", "", "", "", "YES", ""],
    ["14", "AGE_80_OR_ABOVE", "MALE", "", "", "", P + sorted(NEVER_PUBLISHED)[0], P + "5.png", "", "", "", "", ""],
]
LABELS = [
    ["-11", GOOD, GOOD, GOOD, "{'Acne': 0.25, 'Eczema': 0.5, 'Not In The List': 0.25}", "FST2"],
    ["-12", BAD, "", "", "{}", ""],
    ["13", GOOD, BAD, "", "{'Acne': 0.41, 'Eczema': 0.41, 'Tinea': 0.18}", "FST6"],
    ["14", GOOD, "", "", "{'Not In The List': 0.6, 'Tinea': 0.4}", ""],
]


def table_text(columns, rows) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    return text.getvalue()


def save(folder, cases=CASES, labels=LABELS):
    write(folder / "scin_cases.csv", table_text(CASE_COLUMNS, cases))
    write(folder / "scin_labels.csv", table_text(LABEL_COLUMNS, labels))
    return folder


def test_small_tables_by_hand(tmp_path):
    save(tmp_path / "dataset")
    table = ScinSource(root=str(tmp_path)).load()
    frame = table.frame
    assert table.conditions == ("Acne", "Eczema", "Tinea")
    assert frame["image_id"].tolist() == ["-1", "-2", "4"]
    assert frame["image"].tolist() == [P + "-1.png", P + "-2.png", P + "4.png"]
    assert frame["case"].tolist() == ["-11", "-11", "13"]
    np.testing.assert_array_equal(table.labels, [[1, 1, 0], [1, 1, 0], [1, 1, 1]])
    assert frame["primary"].tolist() == [1, 1, 0]  # Acne comes first in case 13, which wins the tie
    assert frame["skin_tone"].tolist() == ["2", "2", "6"]
    assert frame["age_group"].tolist() == ["18-29", "18-29", ""]
    assert frame["sex"].tolist() == ["female", "female", "male"]
    assert frame["site"].tolist() == ["arm", "arm", "leg"]
    assert table.notes[0] == "4 cases read, 1 of them without a condition"
    assert LeftOut("the tables list it, the public bucket never had it", 1, asked=True) in table.left_out


def test_options(tmp_path):
    def load(**settings):
        return ScinSource(root=str(save(tmp_path)), **settings).load()

    everything = load(published_66=False)
    assert everything.conditions == ("Acne", "Eczema", "Not In The List", "Tinea")
    assert everything.frame["image_id"].tolist() == ["-1", "-2", "4", "5"]
    np.testing.assert_allclose(load(soft_labels=True).labels[2], [0.41, 0.41, 0.18])
    np.testing.assert_array_equal(
        load(minimum_weight=0.3, published_66=False).labels[0] > 0, [False, True, False, False]
    )
    graded = load(gradable_only=True)
    assert graded.frame["case"].tolist() == ["-11", "-11"]
    assert any("could not judge the case" in item.reason and item.asked for item in graded.left_out)
    assert load(skin_tone="self_reported").frame["skin_tone"].tolist() == ["4", "4", ""]
    assert load(image_folder="png").frame["image"].iloc[0] == "png/-1.png"
    assert load(conditions=["Eczema"]).frame["case"].tolist() == ["-11", "-11", "13"]


def test_what_is_wrong_is_said_with_file_and_row(tmp_path):
    def message(cases=CASES, labels=LABELS) -> str:
        with pytest.raises(UserError) as error:
            ScinSource(root=str(save(tmp_path, cases, labels))).load()
        return str(error.value)

    assert "scin_cases.csv, row 4: case 14 has no row in" in message(labels=LABELS[:3])
    assert "case_id '-11' occurs twice (row 1" in message(labels=[*LABELS, LABELS[0]])
    for label in ("{'Acne': 0.5", "__import__('os')", "['Acne']", "{'Acne': 'x'}", "", "{0: 1.0}"):
        broken = [LABELS[0], [*LABELS[1][:4], label, ""], *LABELS[2:]]
        assert "scin_labels.csv, row 2: weighted_skin_condition_label" in message(labels=broken)
    heavy = [[*LABELS[0][:4], "{'Acne': 1.5}", ""], *LABELS[1:]]
    assert "scin_cases.csv, row 1: the weight of 'Acne' is 1.5" in message(labels=heavy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no scin_cases\.csv, nor dataset/scin_cases\.csv; .*download=true"):
        ScinSource(root=str(tmp_path / "empty")).prepare()


def test_published_recipe_on_the_real_tables(shared):
    """Rebuilds the published list of 5,909 images row by row."""
    folder = shared / "data/metadata/scin"
    published = pd.read_csv(folder / "scin_66_images.csv", dtype=str, keep_default_na=False)
    table = ScinSource(root=str(folder)).load()
    frame, names = table.frame, np.array(table.conditions)
    assert (len(table), len(names), len(set(table.cases))) == (5909, 66, 2775)
    assert set(names) == set(known_conditions("catalog")) == set(published["condition"])
    assert "5,033 cases read, 1,972 of them without a condition" in table.notes
    assert frame["image_id"].tolist() == published["image_id"].tolist()
    assert frame["case"].tolist() == published["case_id"].tolist()
    assert frame["image"].tolist() == (P + published["image_path"]).tolist()
    assert names[frame["primary"]].tolist() == published["condition"].tolist()
    listed = [set(names[row > 0]) for row in table.labels]
    assert listed == [set(text.split("|")) for text in published["conditions_66"]]
    assert frame["skin_tone"].tolist() == [
        text.removeprefix("FST") for text in published["dermatologist_fitzpatrick_skin_type_label_1"]
    ]
    soft = ScinSource(root=str(folder), soft_labels=True).load()
    np.testing.assert_array_equal(soft.labels > 0, table.labels > 0)
    eczema = soft.labels[:, table.conditions.index("Eczema")]
    assert eczema[0] == pytest.approx(0.41)
