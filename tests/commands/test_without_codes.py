"""Healthy skin has no ICD-10-CM code: it trains with a tree and without one, and is answered, reported and shown."""

import csv

import numpy as np
import pytest
from PIL import Image

from siglip_med.commands import evaluate, train
from siglip_med.core.config import typed
from siglip_med.demo.tree import place_in_icd
from siglip_med.inference import load
from tests.short_runs import compose_config, two_steps

NAMES = ("healthy skin", "Psoriasis", "Melanoma", "other")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("without_codes"), np.random.default_rng(0)
    rows = []
    for number in range(64):
        name = NAMES[number % 4]
        pixels = rng.integers(0, 60, (40 + number % 7, 48, 3)) + 40 * (number % 4)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{number}.png")
        rows.append((f"{number}.png", name))
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "condition"), *rows])
    (root / "codes.csv").write_text("condition,code\nhealthy skin,\nPsoriasis,L40.9\nMelanoma,C43.9\nother,\n")
    return root


@pytest.mark.parametrize("experiment", ["layered", "baseline"])
def test_it_trains_answers_and_is_reported(folder, tmp_path, experiment, capsys):
    words = (f"experiment={experiment}", "data=csv", f"data.source.root={folder}")
    result = train.run(two_steps(tmp_path, *words, f"conditions.codes={folder / 'codes.csv'}"))
    test = result.tuned.test
    assert dict(zip(test.conditions, test.codes, strict=True))["healthy skin"] == ""
    healthy = test.conditions.index("healthy skin")
    assert test.dissimilarity[healthy].tolist() == [float(c != healthy) for c in range(4)]
    said = " ".join(capsys.readouterr().out.split())
    assert "2 of 4 conditions have no ICD-10-CM code and stand at the root of the tree" in said
    found = load(result.best).predict([folder / "0.png"], top_k=4)
    assert {candidate.condition for candidate in found.differentials[0].candidates} == set(NAMES)
    shown = place_in_icd(test.conditions, test.codes, "run").tree([healthy, 1 - min(healthy, 1)])
    assert shown[0].leaves[0].condition == "healthy skin"
    if experiment == "layered":
        given = [f"checkpoint='{result.best}'", "device=cpu", "report.bootstrap=10", "paths.output_dir=unused"]
        page = evaluate.run(
            typed(compose_config(*given, f"paths.cache_dir={tmp_path / 'cache'}", name="evaluate"), evaluate.Settings)
        ).page
        assert "healthy skin" in page.read_text()
