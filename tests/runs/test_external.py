"""A trained run on a clinic with other words, copies of training images in it: the whole command, and what stops it."""

import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from siglip_med.commands import evaluate
from siglip_med.conditions import load_conditions
from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from siglip_med.metrics import Predictions, headline_metrics
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
        [names[p], *names[[c for c in np.flatnonzero(row) if c != p]]] for p, row in zip(first, table.labels, strict=True)
    ]


def settings(short_run, cache, clinic, output, *words):
    given = [f"checkpoint='{short_run.best}'", "external=csv", f"external.source.root={clinic}", f"output='{output}'"]
    given += ["external.source.condition_separator='|'", "external.source.group_column=person", "external.name=clinic"]
    given += [f"external.codes={clinic / 'codes.csv'}", "external.num_workers=0", "device=cpu", "report.bootstrap=30", "paths.output_dir=unused"]
    return typed(compose_config(*given, f"paths.cache_dir={cache}", *words, name="evaluate"), evaluate.Settings)


@pytest.fixture(scope="module")
def validated(short_run, cache, clinic, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "clinic"
    result = evaluate.run(settings(short_run, cache, clinic, folder))
    return folder, result


def rows_of(path: Path):
    return list(csv.DictReader(path.open()))


def test_the_folder_holds_everything_and_the_planted_copies_are_found(validated, clinic):
    folder, result = validated
    assert result.page == folder / "index.html"
    assert {"index.html", "metrics.json", "matches.csv", "leaks.csv", "predictions"} <= {p.name for p in folder.iterdir()}
    leaks = {row["image"]: row["kind"] for row in rows_of(folder / "leaks.csv")}
    copies = [leaks.get(f"copy_{number}.jpg") for number in range(COPIES)]
    assert copies == ["byte-identical", "near-duplicate"] * (COPIES // 2)
    print(len(leaks), result.lines)
    judged = Predictions.load(folder / "predictions")
    assert not set(judged.frame["image"]) & set(leaks)
