"""A trained run on a clinic with other words, copies of training images in it: the whole command, and what stops it."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from siglip_med.commands import evaluate
from siglip_med.conditions import load_conditions
from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from siglip_med.inference import load
from siglip_med.metrics import SET_METRICS, Predictions, headline_metrics
from siglip_med.synthetic.source import SyntheticSource
from tests.short_runs import compose_config

COARSE = "some dermatitis"
UNKNOWN = ("Acne", "Urticaria")
COPIES = 20


def word(name):
    """A label of the other clinic: a block for its conditions, other spellings of unknown ones, else the code's key."""
    condition = load_conditions([name]).conditions[0]
    return COARSE if condition.path[1] == "L20-L30" else f"not in the model: {name}" if name in UNKNOWN else name


@pytest.fixture(scope="module")
def clinic(short_run, tmp_path_factory):
    """198 other drawings and 20 copies of training images: ten byte by byte, ten compressed again."""
    root = tmp_path_factory.mktemp("clinic")
    source = SyntheticSource(str(root / "drawn"), n_images=198, seed=77)
    source.prepare()
    table, data = source.load(), short_run.components.data
    rows = [
        (str((table.root / image).relative_to(root)), case, "|".join(dict.fromkeys(map(word, names))))
        for image, case, names in zip(table.frame["image"], table.cases, listed(table), strict=True)
    ]
    seen = np.random.default_rng(0).choice(data.split.train, COPIES, replace=False)
    labels = listed(data.table)
    for number, row in enumerate(seen.tolist()):
        picture, name = data.table.root / data.table.frame["image"].iloc[row], f"copy_{number}.jpg"
        if number % 2:
            cv2.imwrite(str(root / name), cv2.imread(str(picture)), [cv2.IMWRITE_JPEG_QUALITY, 85])
        else:
            (root / name).write_bytes(picture.read_bytes())
        rows.append((name, f"copied {number}", "|".join(dict.fromkeys(map(word, labels[row])))))
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "person", "condition"), *rows])
    (root / "codes.csv").write_text(f"condition,code\n{COARSE},L20-L30\n")
    return root


def listed(table):
    """Names of each image's conditions, the first one first."""
    names, first = np.array(table.conditions), table.frame["primary"]
    return [
        [names[p], *names[[c for c in np.flatnonzero(row) if c != p]]]
        for p, row in zip(first, table.labels, strict=True)
    ]


def settings(short_run, cache, clinic, output, *words):
    given = [f"checkpoint='{short_run.best}'", "external=csv", f"external.source.root={clinic}", f"output='{output}'"]
    given += ["external.source.condition_separator='|'", "external.source.group_column=person", "external.name=clinic"]
    given += [
        f"external.codes={clinic / 'codes.csv'}",
        "external.num_workers=0",
        "device=cpu",
        "report.bootstrap=30",
        "paths.output_dir=unused",
    ]
    return typed(compose_config(*given, f"paths.cache_dir={cache}", *words, name="evaluate"), evaluate.Settings)


@pytest.fixture(scope="module")
def validated(short_run, cache, clinic, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "clinic"
    result = evaluate.run(settings(short_run, cache, clinic, folder))
    return folder, result


def rows_of(path: Path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_folder_holds_everything_and_the_planted_copies_are_found(validated, clinic):
    folder, result = validated
    assert result.page == folder / "index.html"
    assert {"index.html", "metrics.json", "matches.csv", "leaks.csv", "predictions"} <= {
        p.name for p in folder.iterdir()
    }
    leaks = {row["image"]: row["kind"] for row in rows_of(folder / "leaks.csv")}
    copies = [leaks.get(f"copy_{number}.jpg") for number in range(COPIES)]
    assert copies == ["byte-identical", "near-duplicate"] * (COPIES // 2)
    judged = Predictions.load(folder / "predictions")
    assert not set(judged.frame["image"]) & set(leaks)


def test_every_count_of_the_matches_is_right(validated, clinic):
    folder, result = validated
    images, cases, first = {}, {}, {}
    for row in rows_of(clinic / "labels.csv"):
        names = row["condition"].split("|")
        for name in names:
            images[name] = images.get(name, 0) + 1
            cases.setdefault(name, set()).add(row["person"])
        kind = "coarser" if names[0] == COARSE else "unknown" if ":" in names[0] else "same name"
        first.setdefault(kind, []).append(row["person"])
    found = {row["external"]: row for row in rows_of(folder / "matches.csv")}
    assert {name: int(row["images"]) for name, row in found.items()} == images
    assert {name: int(row["cases"]) for name, row in found.items()} == {name: len(of) for name, of in cases.items()}
    assert found[COARSE]["kind"] == "coarser"
    assert found[COARSE]["code"] == "L20-L30"
    in_block = [name for name in Predictions.load(folder / "predictions").conditions if word(name) == COARSE]
    assert found[COARSE]["model conditions"].split(" | ") == in_block
    for kind, people in first.items():
        assert f"{kind}: {len(people)} images of {len(set(people))} cases" in result.lines
    assert all(row["kind"] == "unknown" for name, row in found.items() if ":" in name)
    assert all(row["model conditions"] == name for name, row in found.items() if row["kind"] == "same name")


def test_the_numbers_are_those_of_the_predictions(validated, short_run):
    folder, _ = validated
    numbers, judged = json.loads((folder / "metrics.json").read_text()), Predictions.load(folder / "predictions")
    own = headline_metrics(judged)
    for name, one in numbers["compared"].items():
        if name not in SET_METRICS:
            assert one["external"]["estimate"] == pytest.approx(own[name], abs=1e-6)
    assert {row["attribute"] for row in numbers["groups"]} <= {"skin_tone", "sex", "age_group", "site"}
    assert numbers["judged"] == [len(judged), len(set(judged.cases))]
    known = judged.labels.any(axis=0)
    assert numbers["internal"][0] == known[short_run.tuned.test.primary].sum()
    text = (folder / "index.html").read_text()
    for words in ("Does it hold?", "Why it differs", "share of the drop", COARSE, "10 byte-identical"):
        assert words in text


def test_changed_matches_and_kept_leaks_replace_the_first_results(validated, short_run, cache, clinic, tmp_path):
    folder, _ = validated
    table = tmp_path / "mine.csv"
    lines = (folder / "matches.csv").read_text().splitlines()
    table.write_text("\n".join(f"{COARSE},,unknown,,0,0" if line.startswith(COARSE) else line for line in lines))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").touch()
    words = (f"external.matches={table}", "external.keep_leaks=true", "external.zero_shot=true")
    result = evaluate.run(settings(short_run, cache, clinic, tmp_path / "out", *words))
    judged = Predictions.load(tmp_path / "out" / "predictions")
    wanted = [
        row["image"]
        for row in rows_of(clinic / "labels.csv")
        if any(name != COARSE and ":" not in name for name in row["condition"].split("|"))
    ]
    assert judged.frame["image"].tolist() == wanted
    assert not (tmp_path / "out" / "old.txt").exists()
    ranked = json.loads((tmp_path / "out" / "metrics.json").read_text())["own_labels"]
    assert set(ranked) == {"tuned", "zero-shot"}
    assert ranked["tuned"] != ranked["zero-shot"]
    assert set(ranked["zero-shot"]) == {"all", "labels of training", "other labels"}
    assert any(line.startswith("own labels by their prompts, zero-shot, other labels: MRR") for line in result.lines)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_models_scores_are_those_of_its_own_path_on_the_same_images(validated, short_run, clinic):
    """The one pass ranks the set's own labels; the model's conditions are scored from what it gave."""
    judged = Predictions.load(validated[0] / "predictions")
    rows = range(0, len(judged), 40)
    found = load(short_run.best).predict([clinic / judged.frame["image"][row] for row in rows], len(judged.conditions))
    for row, one in zip(rows, found.differentials, strict=True):
        expected = {candidate.condition: candidate.logit for candidate in one.candidates}
        scores = dict(zip(judged.conditions, judged.logits[row].tolist(), strict=True))
        assert scores == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["external.source.root=/nowhere"], r"^/nowhere: no such folder; give external\.source\.root=FOLDER"),
        (["external.source.table=gone.csv"], r"gone\.csv: no such file; check external\.source\.root"),
        (
            ["external.source.condition_column=person"],
            r"labels\.csv: nothing can be judged: of 218 images 218 ",
        ),
        (["external.codes=gone.csv"], r"gone\.csv: no such file"),
        (["external.name=../up"], r"^external\.name: string should match pattern"),
        (["external.leak_distance=99"], r"^external\.leak_distance: input should be less than or equal to 32"),
        (["+external.typo=1"], r"^external\.typo: no such setting"),
        (["derive=crm"], r"^external=… validates one checkpoint"),
    ],
)
def test_a_refused_set_is_one_line_and_nothing_is_written(words, message, short_run, cache, clinic, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        evaluate.run(settings(short_run, cache, clinic, tmp_path / "out", *words))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_image_is_one_line_and_nothing_is_written(short_run, cache, clinic, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "labels.csv").write_text("image,person,condition\nbad.jpg,a,Psoriasis\n")
    (tmp_path / "root" / "bad.jpg").write_bytes(b"\xff\xd8\xff no picture")
    with pytest.raises(UserError, match=r"bad\.jpg \(row 1 of .*or set external\.on_bad_image=skip"):
        evaluate.run(settings(short_run, cache, clinic, tmp_path / "out", f"external.source.root={tmp_path / 'root'}"))
    assert not (tmp_path / "out").exists()
