"""A data set looked at as a run would use it."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from siglip_med.commands.check import Settings, run
from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from siglip_med.report.data_page import findings_lines
from siglip_med.sources import CsvSource
from tests.short_runs import compose_config


@pytest.fixture
def folder(tmp_path):
    """Twelve photographs of two conditions: a blank, a dark and a blurred one, a copy, and one that is no image."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name in ("acne", "eczema"):
        (root / name).mkdir(parents=True)
        for number in range(10):
            picture = cv2.resize(rng.integers(60, 255, (24, 24, 3), dtype=np.uint8), (96, 96))
            cv2.imwrite(str(root / name / f"{number}.png"), picture)
    cv2.imwrite(str(root / "acne" / "0.png"), np.full((96, 96, 3), 128, np.uint8))
    cv2.imwrite(str(root / "acne" / "1.png"), rng.integers(0, 30, (96, 96, 3), dtype=np.uint8))
    soft = cv2.GaussianBlur(rng.integers(0, 255, (96, 96, 3)).astype(np.float32), (0, 0), 12)
    cv2.imwrite(str(root / "acne" / "2.png"), cv2.normalize(soft, None, 0, 255, cv2.NORM_MINMAX))
    near = cv2.imread(str(root / "acne" / "3.png"))
    near[:2, :2] = 0
    cv2.imwrite(str(root / "eczema" / "3.png"), near)
    (root / "eczema" / "4.png").write_bytes((root / "eczema" / "5.png").read_bytes())
    (root / "eczema" / "6.png").write_bytes(b"no image")
    (root / "eczema" / "notes.txt").write_text("x")
    return root


def check(folder, cache, *overrides):
    config = compose_config(
        "data=image_folder",
        f"data.source.root={folder}",
        f"output={folder.parent / 'out'}",
        f"paths.output_dir={folder.parent}",
        f"paths.cache_dir={cache}",
        "data.num_workers=0",
        *overrides,
        name="check",
    )
    return run(typed(config, Settings))


@pytest.mark.parametrize("images", [False, True])
def test_what_looks_wrong_is_found_and_shown(folder, tmp_path, images):
    result = check(folder, tmp_path / "cache", f"images={str(images).lower()}")
    found = result.findings
    names = found.table.frame["image"]
    assert [names[row] for row in found.faults["blank"]] == ["acne/0.png"]
    assert [names[row] for row in found.faults["dark"]] == ["acne/1.png"]
    assert [names[row] for row in found.faults["blurred"]] == ["acne/2.png"]
    assert [(names[a], names[b]) for a, b, _ in found.copies] == [("acne/3.png", "eczema/3.png")]
    assert [path for path, _ in found.bad] == ["eczema/6.png"]
    assert found.report.read == 21
    assert found.report.used == 19
    said = "\n".join(findings_lines(found))
    for line in ("21 files read = 19 used + 2 left out", "1 images are blank", "1 images are byte-identical copies"):
        assert line in said
    page = result.page.read_text()
    assert "acne/0.png" in page
    assert "elbow and knee folds, hands, neck." in page  # of the first prompt of eczema
    assert ("must not be published" in page) == images


def test_data_with_one_condition_stops_at_once(folder, tmp_path):
    shutil.rmtree(folder / "eczema")
    with pytest.raises(UserError, match=r"has the one condition 'acne', so nothing to tell apart"):
        check(folder, tmp_path / "cache")
    assert not (tmp_path / "out").exists()


def test_a_split_of_the_folders_is_not_passed_over(folder, tmp_path):
    for part in ("train", "test"):
        shutil.copytree(folder, tmp_path / "split" / part)
    with pytest.raises(UserError, match=r"comes with a split of its own \(train 19, test 19\)"):
        check(tmp_path / "split", tmp_path / "cache", "data.on_bad_image=skip")


def test_look_alikes_are_shown_and_follow_what_a_person_says(folder, tmp_path):
    asked = ("look_alikes=true", "data.look_alikes_threshold=0.9999")
    result = check(folder, tmp_path / "cache", *asked, "images=true")
    out = result.page.parent
    assert "Pairs side by side, the most alike first." in result.page.read_text()
    listed = pd.read_csv(out / "look_alikes.csv", keep_default_na=False)
    assert list(listed.columns) == ["image_a", "image_b", "cosine", "labels_a", "labels_b", "same"]
    assert listed["cosine"].is_monotonic_decreasing
    groups = pd.read_csv(out / "groups.csv").set_index("image")["look_alike_group"]
    assert groups["acne/3.png"] == groups["eczema/3.png"]  # by the hash
    assert groups["eczema/4.png"] == groups["eczema/5.png"]  # identical
    (out / "marks.csv").write_text("image_a,image_b,same\nacne/5.png,eczema/8.png,yes\n")
    again = check(folder, tmp_path / "cache", *asked, f"same={out / 'marks.csv'}")
    groups = pd.read_csv(out / "groups.csv").set_index("image")["look_alike_group"]
    assert groups["acne/5.png"] == groups["eczema/8.png"]
    assert any("1 pairs marked yes" in line for line in findings_lines(again.findings))
    with pytest.raises(UserError, match="add it"):
        check(folder, tmp_path / "cache", "same=x.csv")


def test_every_fault_of_a_table_is_told_at_once(folder, cache, capsys):
    lines = [f"acne/{number}.png,acne,{number % 6 + 1}" for number in range(10)]
    lines[1:8:2] = ["acne/1.png,acne,9", "../../x.png,acne,1", ",acne,2", "acne/7.png,acne|,3"]
    lines.append("acne/2.png,eczema,1")
    (folder / "labels.csv").write_text("\n".join(["image,condition,type", *lines]))
    own = ("data=csv", "data.source.condition_separator='|'", "data.source.skin_tone_column=type")
    with pytest.raises(UserError, match=r"^5 faults in the table: mend them, and check again$"):
        check(folder, cache, *own)
    told = capsys.readouterr().err.splitlines()
    rows = [int(line.split("row ")[1].split(",")[0].split(":")[0]) for line in told if "labels.csv, row" in line]
    assert sorted(rows) == [2, 4, 6, 8, 11]
    source = CsvSource(root=str(folder), condition_separator="|", skin_tone_column="type")
    with pytest.raises(UserError, match=r"row 2.*\(and 4 more such faults, which siglip-med-check lists\)$"):
        source.load()
