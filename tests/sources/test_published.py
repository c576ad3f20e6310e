"""The other data sets: each against its real header, on small tables by hand and on the real ones where they are."""

import os
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from siglip_med.conditions import known_conditions
from siglip_med.core.errors import UserError
from siglip_med.data.accounting import LeftOut
from siglip_med.data.splitting.split import GroupStratifiedSplitter, make_split
from siglip_med.sources import (
    Fitzpatrick17kSource,
    Ham10000Source,
    ImageFolderSource,
    Isic2019Source,
    PadUfes20Source,
)
from tests.data.tables import write

ISIC_TRUTH = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\nISIC_1,0.0,1.0,0,0,0,0,0,0,0\nISIC_2,1.0,0,0,0,0,0,0,0,0\n"
ISIC_METADATA = (
    "image,age_approx,anatom_site_general,lesion_id,sex\nISIC_2,55.0,,BCN_7,male\nISIC_1,,anterior torso,,\n"
)


def assert_no_group_straddles(table) -> None:
    split = make_split(table, GroupStratifiedSplitter(), seed=1)
    parts = [set(table.cases[rows]) for rows in (split.train, split.val, split.test)]
    assert sum(map(len, parts)) == len(set(table.cases))
    assert split.report(table).straddling == []


def test_fitzpatrick17k(shared):
    source = Fitzpatrick17kSource(root=str(shared / "data/metadata/fitzpatrick17k"), near_duplicate_distance=None)
    table = source.load()
    assert any("set data.source.near_duplicate_distance=4" in note for note in table.notes)
    assert (len(table), len(table.conditions)) == (16577, 114)
    assert set(table.conditions) == set(known_conditions("fitzpatrick17k"))
    assert (table.frame["skin_tone"] == "").sum() == 565
    assert table.frame["image"].iloc[0] == "images/5e82a45bc5d78bd24ae9202d194423f8.jpg"
    assert len(replace(source, drop_wrong=True).load()) == 16577 - 17
    centaur = replace(source, skin_tone_column="fitzpatrick_centaur").load()
    assert (centaur.frame["skin_tone"] == "").sum() == 1073


def test_ham10000(shared):
    table = Ham10000Source(root=str(shared / "data/metadata/ham10000")).load()
    assert (len(table), len(set(table.cases))) == (10015, 7470)
    assert set(table.conditions) == set(known_conditions("ham10000"))
    assert (table.labels[:, table.conditions.index("nv")] > 0).sum() == 6705
    assert (table.frame["sex"] == "").sum() == 57
    assert (table.frame["age_group"] == "").sum() == 57
    assert (table.frame["site"] == "").sum() == 234
    assert_no_group_straddles(table)


def test_pad_ufes_20(shared):
    table = PadUfes20Source(root=str(shared / "data/metadata/pad_ufes_20")).load()
    assert (len(table), len(set(table.cases))) == (2298, 1373)
    assert set(table.conditions) == set(known_conditions("pad_ufes_20"))
    assert (table.frame["skin_tone"] == "2").sum() == 876
    assert (table.frame["skin_tone"] == "").sum() == 804
    assert_no_group_straddles(table)


def test_images_are_found_in_the_parts_of_the_archive(tmp_path):
    write(
        tmp_path / "HAM10000_metadata.csv",
        "lesion_id,image_id,dx,dx_type,age,sex,localization\nL,a,nv,x,80,male,ear\nL,b,nv,x,80,male,ear\nL,c,nv,x,5,male,ear\n",
    )
    write(tmp_path / "HAM10000_images_part_1/a.jpg", "")
    write(tmp_path / "HAM10000_images_part_2/b.jpg", "")
    table = Ham10000Source(root=str(tmp_path)).load()
    assert table.frame["image"].tolist() == [
        "HAM10000_images_part_1/a.jpg",
        "HAM10000_images_part_2/b.jpg",
        "images/c.jpg",
    ]
    assert table.frame["age_group"].tolist() == ["80+", "80+", "0-9"]


def test_isic2019(tmp_path):
    write(tmp_path / "ISIC_2019_Training_GroundTruth.csv", ISIC_TRUTH)
    write(tmp_path / "ISIC_2019_Training_Metadata.csv", ISIC_METADATA)
    table = Isic2019Source(root=str(tmp_path)).load()
    assert table.conditions == ("MEL", "NV")
    assert set(table.conditions) < set(known_conditions("isic2019"))
    np.testing.assert_array_equal(table.labels, [[0, 1], [1, 0]])
    assert table.frame["case"].tolist() == ["images/ISIC_1.jpg", "BCN_7"]
    assert table.frame["age_group"].tolist() == ["", "50-59"]
    assert table.frame["site"].tolist() == ["anterior torso", ""]
    assert any("1 of 2 images do not say whose they are" in note for note in table.notes)
    write(tmp_path / "ISIC_2019_Training_Metadata.csv", ISIC_METADATA.replace("ISIC_1", "ISIC_3"))
    alone = LeftOut("no row of ISIC_2019_Training_Metadata.csv has the same image", 1)
    assert alone in Isic2019Source(root=str(tmp_path)).load().left_out
    write(tmp_path / "ISIC_2019_Training_Metadata.csv", ISIC_METADATA.replace("ISIC_1", "ISIC_2"))
    with pytest.raises(UserError, match=r"Metadata\.csv, row 2: image 'ISIC_2' occurs twice"):
        Isic2019Source(root=str(tmp_path)).load()


@pytest.mark.parametrize("source", [Fitzpatrick17kSource, Ham10000Source, PadUfes20Source, Isic2019Source])
def test_a_missing_folder_says_where_to_get_the_data(source, tmp_path):
    with pytest.raises(UserError, match=r"no such folder; give data\.source\.root=FOLDER.*https://"):
        source(root=str(tmp_path / "none")).prepare()


@pytest.mark.parametrize("source", [Fitzpatrick17kSource, Ham10000Source, PadUfes20Source, Isic2019Source])
def test_a_wrong_table_names_its_columns(source, tmp_path):
    write(tmp_path / source(root="x").table, "one,two\n1,2\n")
    with pytest.raises(UserError, match=r"no column '.*'; there are one, two"):
        source(root=str(tmp_path)).load()


def image(path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def test_image_folder(tmp_path):
    for name in ("Acne/p1_a.jpg", "Acne/p1_b.PNG", "Scar tissue/deep/p2_a.jpg"):
        image(tmp_path / name)
    write(tmp_path / "Acne/notes.txt", "x")
    write(tmp_path / "Acne/.hidden.jpg", "x")
    table = ImageFolderSource(root=str(tmp_path), group_pattern=r"(p\d+)_").load()
    assert table.conditions == ("Acne", "Scar tissue")
    assert table.frame["image"].tolist() == ["Acne/p1_a.jpg", "Acne/p1_b.PNG", "Scar tissue/deep/p2_a.jpg"]
    assert table.frame["case"].tolist() == ["p1", "p1", "p2"]
    assert table.frame["source_split"].tolist() == ["", "", ""]
    assert table.left_out == (LeftOut("hidden files", 1), LeftOut("files with the ending .txt", 1))
    assert (table.unit, table.read) == ("files", 5)


@pytest.mark.parametrize("spelling", ["unknown", "", "NA", "-1"])
def test_a_case_that_is_not_known_is_no_giant_patient_in_any_source(tmp_path, spelling):
    ham = "lesion_id,image_id,dx,dx_type,age,sex,localization\n" + "".join(
        f"{spelling if i < 55 else f'L{i}'},i{i},nv,x,,,\n" for i in range(60)
    )
    write(tmp_path / "ham/HAM10000_metadata.csv", ham)
    pad = "patient_id,img_id,diagnostic,fitspatrick,gender,age,region\n" + "".join(
        f"{spelling if i < 55 else f'P{i}'},i{i}.png,NEV,,,,\n" for i in range(60)
    )
    write(tmp_path / "pad/metadata.csv", pad)
    truth = ISIC_TRUTH.splitlines()[0] + "\n" + "".join(f"I{i},0,1,0,0,0,0,0,0,0\n" for i in range(60))
    write(tmp_path / "isic/ISIC_2019_Training_GroundTruth.csv", truth)
    about = (
        ISIC_METADATA.splitlines()[0]
        + "\n"
        + "".join(f"I{i},,,{spelling if i < 55 else f'B{i}'},\n" for i in range(60))
    )
    write(tmp_path / "isic/ISIC_2019_Training_Metadata.csv", about)
    sources = [(Ham10000Source, "ham"), (PadUfes20Source, "pad"), (Isic2019Source, "isic")]
    for source, folder in sources:
        table = source(root=str(tmp_path / folder)).load()
        assert len(set(table.cases[:55])) == 55
        assert any("55 of 60 images do not say whose they are" in note for note in table.notes)


def test_isic2019_without_its_empty_column(tmp_path):
    write(tmp_path / "ISIC_2019_Training_GroundTruth.csv", ISIC_TRUTH.replace(",UNK", "").replace(",0\n", "\n"))
    write(tmp_path / "ISIC_2019_Training_Metadata.csv", ISIC_METADATA)
    assert len(Isic2019Source(root=str(tmp_path)).load()) == 2


def test_a_label_that_is_not_known_is_left_out_and_counted_in_every_source(tmp_path):
    header = "md5hash,label,qc,fitzpatrick_scale\n"
    write(tmp_path / "fitzpatrick17k.csv", header + "a,acne,,3\nb,unknown,,2\nc,,,1\nd,acne,3 Wrongly labelled,1\n")
    table = Fitzpatrick17kSource(root=str(tmp_path), drop_wrong=True).load()
    assert (len(table), table.read) == (1, 4)
    assert (
        LeftOut("no condition ('unknown' 1, empty 1)", 2) in table.left_out
        or LeftOut("no condition (empty 1, 'unknown' 1)", 2) in table.left_out
    )
    assert LeftOut("the authors found the label wrong", 1, asked=True) in table.left_out


def test_every_file_below_the_root_is_accounted_for(tmp_path):
    for name in ("Acne/a.jpg", "Acne/b.JFIF", "Scar/deep/c.gif", "Scar/d.png"):
        image(tmp_path / name)
    for name in ("Acne/x.heic", "Acne/.DS_Store", "Acne/Thumbs.db", "readme.md", "loose.jpg", "Scar/notes", ".git/x"):
        write(tmp_path / name, "x")
    (tmp_path / "Scar/dead.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "Scar/again").symlink_to(tmp_path / "Acne", target_is_directory=True)
    files = sum(len(names) for _, _, names in os.walk(tmp_path))
    table = ImageFolderSource(root=str(tmp_path)).load()
    assert table.read == files
    reasons = {item.reason: item.count for item in table.left_out}
    assert reasons["links that lead nowhere"] == 1
    assert reasons["in no condition's folder"] == 1
    assert {"Acne/a.jpg", "Acne/b.JFIF", "Scar/deep/c.gif", "Scar/d.png"} <= set(table.frame["image"])


@pytest.mark.parametrize("kind", ["dead links", "raw files"])
def test_a_condition_whose_files_are_no_images_stops_the_run(tmp_path, kind):
    image(tmp_path / "Acne/a.jpg")
    for number in range(3):
        path = tmp_path / f"Scar/{number}.jpg"
        if kind == "dead links":
            path.parent.mkdir(exist_ok=True)
            path.symlink_to(tmp_path / "gone.jpg")
        else:
            write(path.with_suffix(".cr2"), "x")
    with pytest.raises(UserError, match=r"Scar: none of its files is an image \(3 "):
        ImageFolderSource(root=str(tmp_path)).load()
    assert ImageFolderSource(root=str(tmp_path), aliases={"Scar": None}).load().conditions == ("Acne",)


def test_folders_below_a_conditions_folder_are_said(tmp_path):
    for name in ("Benign/Nevus/1.jpg", "Benign/Lentigo/2.jpg", "Malignant/3.jpg"):
        image(tmp_path / name)
    table = ImageFolderSource(root=str(tmp_path)).load()
    assert table.conditions == ("Benign", "Malignant")
    said = "2 images lie in folders below their condition's: the folder 'Benign' alone"
    assert any(note.startswith(said) for note in table.notes)


def test_splits_beside_conditions_stop_the_run(tmp_path):
    for name in ("train/Acne/1.jpg", "test/Acne/2.jpg", "Psoriasis/3.jpg"):
        image(tmp_path / name)
    with pytest.raises(UserError, match=r"named like splits \(test, train\) beside 'Psoriasis'"):
        ImageFolderSource(root=str(tmp_path)).load()


def test_image_folder_with_splits(tmp_path):
    for name in ("train/Acne/1.jpg", "valid/Acne/2.jpg", "test/Scar/3.jpg"):
        image(tmp_path / name)
    table = ImageFolderSource(root=str(tmp_path)).load()
    assert sorted(zip(table.frame["image"], table.frame["source_split"], strict=True)) == [
        ("test/Scar/3.jpg", "test"),
        ("train/Acne/1.jpg", "train"),
        ("valid/Acne/2.jpg", "val"),
    ]


def test_image_folder_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="holds no folder with images"):
        ImageFolderSource(root=str(tmp_path)).load()
    image(tmp_path / "Acne/x1.jpg")
    with pytest.raises(UserError, match=r"x1\.jpg: the file name does not match"):
        ImageFolderSource(root=str(tmp_path), group_pattern=r"(p\d+)_").load()
    with pytest.raises(UserError, match="is no pattern"):
        ImageFolderSource(root=str(tmp_path), group_pattern="(")
    with pytest.raises(UserError, match=re.escape("'(a)(b)' has 2 groups; give it one")):
        ImageFolderSource(root=str(tmp_path), group_pattern="(a)(b)")
