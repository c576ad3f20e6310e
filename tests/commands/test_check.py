"""A data set looked at as a run would use it."""

import shlex
import shutil
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from siglip_med.commands import train
from siglip_med.commands.check import Settings, WouldStop, run, show
from siglip_med.core.config import typed as to_settings
from siglip_med.core.errors import UserError, fail
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
    return run(to_settings(config, Settings))


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
    line = r"^5 faults in the table: mend them, or take clean=labels_clean\.csv, and check again$"
    with pytest.raises(WouldStop, match=line) as stopped:
        check(folder, cache, *own)
    with pytest.raises(SystemExit, match="1"):
        fail(stopped.value)
    told = capsys.readouterr().err.splitlines()
    rows = [int(line.split("row ")[1].split(",")[0].split(":")[0]) for line in told if "labels.csv, row" in line]
    assert sorted(rows) == [2, 4, 6, 8, 11]
    source = CsvSource(root=str(folder), condition_separator="|", skin_tone_column="type")
    with pytest.raises(UserError, match=r"row 2.*\(and 4 more such faults, which siglip-med-check lists\)$"):
        source.load()


DIRTY = """Picture;Diagnosis;Patient
a0;Acne;1
a1;acne;1
a2;Acne|Eczema;2
e3;Eczema;2
e4;eczemma;3
e5;Eczema;3
e6;Eczema;4
a7;;4
a8;Acne;5;;x
a9;Acne|;5
gone;Acne;6
"""
DIRTY += "".join(f"a{n};Acne;{10 + n}\ne{n - 1};Eczema;{20 + n}\n" for n in (3, 9)) + "".join(
    f"{name[0].lower()}{n};{name};{30 + n}\n" for n, name in ((4, "Acne"), (5, "Acne"), (6, "Acne"), (7, "Eczema"))
)
"""Wrong columns for the defaults; a file that is none (e6) and one that is not there, and four more faulty rows."""


@pytest.fixture
def dirty(folder):
    for name in ("acne", "eczema"):
        for number in range(10):
            (folder / name / f"{number}.png").rename(folder / f"{name[0]}{number}.png")
    (folder / "labels.csv").write_text(DIRTY)
    return folder


def typed(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["siglip-med-check", *words])
    return words


def to_train(lines):
    """The words of the command that is printed."""
    (line,) = [line for line in lines if line.startswith("to train: ")]
    command, *words = shlex.split(line.removeprefix("to train: "))
    assert command == "siglip-med-train"
    return words


def test_a_dirty_table_becomes_a_clean_one_and_a_command_that_reads_it(dirty, tmp_path, monkeypatch, capsys):
    clean = tmp_path / "labels_clean.csv"
    words = typed(monkeypatch, "data=csv", f"data.source.root={dirty}", "data.source.delimiter=';'", f"clean={clean}")
    result = check(dirty, tmp_path / "cache", *words)
    rows = pd.read_csv(clean)
    assert "".join(rows["Picture"]) == "a0a1a2e3e4e5a3e2a9e8a4a5a6e7"
    removed = pd.read_csv(tmp_path / "labels_clean_removed.csv")
    assert [*removed.columns] == ["row", "why", "Picture", "Diagnosis", "Patient", "beyond 1", "beyond 2"]
    why = dict(zip(removed["row"], removed["why"], strict=True))
    assert [*why] == [7, 8, 9, 10, 11]
    for row, reason in {7: "is not an image", 8: "no condition", 10: "empty name", 11: "does not exist"}.items():
        assert reason in why[row]
    assert "has 5 fields where the header has 3" in why[9]
    said = capsys.readouterr().err
    assert f"cleaned table: {clean}, 14 of 19 rows" in said
    counted = "(2 with a fault; 2 whose file gives no image; 1 no condition)"
    assert f"removed rows, with why: {tmp_path / 'labels_clean_removed.csv'}, 5 {counted}" in said
    assert (said.count("cleaned table: "), said.count("removed rows, ")) == (1, 1)
    with pytest.raises(SystemExit) as ended:
        show(result)
    assert ended.value.code == 1
    shown, beside = capsys.readouterr()
    assert beside == ""
    assert shown.splitlines()[-1].startswith("  cleaned; a run on the table as it was given would stop")
    assert "would stop: " in shown
    assert "no column 'image'" in shown
    command = to_train(result.lines)
    assert not any(word.startswith("data.source.delimiter") for word in command)
    data = typed_train(command, tmp_path).data
    source = CsvSource(**{key: value for key, value in data["source"].items() if key != "_target_"})
    table = source.load()
    assert (len(table), len(table.left_out)) == (14, 0)
    assert table.conditions == ("Acne", "Eczema")
    assert table.frame["case"].nunique() == 11
    again = check(
        dirty, tmp_path / "cache", *typed(monkeypatch, *(word for word in command if word.startswith("data")))
    )
    assert again.stops == ()
    show(again)
    assert to_train(again.lines)[1:] == [word for word in command if word.startswith("data")]
    before = "5 rows had been removed before, by cleaning; labels_clean_removed.csv has each with its reason"
    assert f"- {before}" in again.findings.report.account()
    assert again.lines[-1].endswith("for photographs add model=siglip_base (a download)")
    other = check(dirty, tmp_path / "cache", *typed(monkeypatch, *command[1:], "model=siglip_tiny"))
    assert "siglip_base" not in "".join(other.lines)
    removed_file = tmp_path / "labels_clean_removed.csv"
    removed_file.write_text("mine,too\n1,2\n")
    assert not any("removed before" in note for note in source.load().notes)


def typed_train(words, folder):
    """Settings of ``train`` for the words that were printed."""
    places = (f"paths.output_dir={folder}", f"paths.cache_dir={folder}")
    return to_settings(compose_config(*words, *places), train.Settings)


def test_names_that_nobody_knows_leave_a_cleaned_table_and_the_command_trains(folder, tmp_path, monkeypatch, capsys):
    lines = [f"{name}/{n}.png,{name}" for name in ("acne", "eczema") for n in range(10) if (name, n) != ("eczema", 6)]
    lines[2:4] = ["acne/2.png,Mondflechte", "acne/3.png,acne|Mondflechte"]
    (folder / "labels.csv").write_text("\n".join(["image,condition", *lines]))
    own = ("data=csv", f"data.source.root={folder}", "data.source.condition_separator='|'")
    result = check(folder, tmp_path / "cache", *typed(monkeypatch, *own))
    assert len(result.stops) == 1
    for part in (
        "'Mondflechte' (row 3): not in the curated tables; rename it",
        "data.source.aliases={Mondflechte: null}",
    ):
        assert part in result.stops[0]
    assert "in 2 rows: 'Mondflechte' (row 3)" in "".join(result.lines)
    assert typed_train(to_train(result.lines), tmp_path).data["source"]["aliases"] == {"Mondflechte": None}
    for left, aliases in ((lines, {"Mondflechte": None}), ([line for line in lines if "|" not in line], None)):
        clean = tmp_path / f"{len(left)}_clean.csv"
        (folder / "labels.csv").write_text("\n".join(["image,condition", *left]))
        result = check(folder, tmp_path / "cache", *typed(monkeypatch, *own, f"clean={clean}"))
        said = "cleaned by 'data.source.aliases={Mondflechte: null}': null leaves out what no curated table has, in "
        rows = "2 rows" if aliases else "1 row"
        assert f"{said}{rows}: 'Mondflechte' (row 3): look at them" in capsys.readouterr().err
        removed = pd.read_csv(clean.with_name(f"{clean.stem}_removed.csv"))
        assert [*zip(removed["row"], removed["why"], strict=True)] == [
            (3, "every condition is left out by data.source.aliases")
        ]
        source = typed_train(to_train(result.lines), tmp_path).data["source"]
        assert source["aliases"] == aliases
        table = CsvSource(**{key: value for key, value in source.items() if key != "_target_"}).load()
        assert (len(table), len(table.left_out), table.conditions) == (len(left) - 1, 0, ("acne", "eczema"))
        assert not any("aliases" in note for note in table.notes)


def test_a_file_that_is_no_image_stops_training_but_not_the_check(folder, tmp_path, monkeypatch, capsys):
    result = check(folder, tmp_path / "cache", *typed(monkeypatch, "data=image_folder", f"data.source.root={folder}"))
    with pytest.raises(WouldStop):
        show(result)
    assert "would stop: 1 files give no image, the first eczema/6.png" in capsys.readouterr().out
    expected = ["experiment=layered", "data=image_folder", f"data.source.root={folder}", "data.on_bad_image=skip"]
    assert to_train(result.lines) == expected
    skipping = typed(monkeypatch, "data=image_folder", f"data.source.root={folder}", "data.on_bad_image=skip")
    assert check(folder, tmp_path / "cache", *skipping).stops == ()


def test_what_cannot_be_cleaned_is_one_line(dirty, tmp_path, monkeypatch):
    clean, root = tmp_path / "labels_clean.csv", f"data.source.root={dirty}"
    with pytest.raises(UserError, match="the data has no table that can be read; leave clean out") as refused:
        check(dirty, tmp_path / "cache", f"clean={clean}")
    assert refused.value.exit_status == 2
    clean.write_text("mine")
    with pytest.raises(UserError, match="is there already; give another name"):
        check(dirty, tmp_path / "cache", "data=csv", root, f"clean={clean}")
    assert clean.read_text() == "mine"
    rows = ("data=csv", root, "data.source.split_rows={train: train.csv}", f"clean={tmp_path / 'other.csv'}")
    with pytest.raises(UserError, match="the data has split_rows, which count the rows of its table"):
        check(dirty, tmp_path / "cache", *rows)


def test_a_full_disk_says_nothing_of_the_data(folder, tmp_path, monkeypatch):
    def full(*_):
        raise UserError("the disk is full") from OSError(28, "No space left on device")

    monkeypatch.setattr("siglip_med.commands.check.build_components", full)
    with pytest.raises(UserError, match=r"^the disk is full$") as refused:
        check(folder, tmp_path / "cache")
    assert refused.value.exit_status == 2
