"""Three clinics with labels at different levels of the tree, as one table and through a whole run."""

import csv
import json
from collections import Counter

import cv2
import numpy as np
import pytest

from siglip_med.commands import train
from siglip_med.conditions.harmony import Meaning, harmonize
from siglip_med.core.errors import UserError
from siglip_med.data.sampling import ClassBalanced, PerSource
from siglip_med.data.splitting import GivenSplitter, GroupStratifiedSplitter, make_split
from siglip_med.metrics import Predictions
from siglip_med.metrics.subgroups import subgroup_masks
from siglip_med.sources import CsvSource, MixtureSource
from tests.short_runs import two_steps

CLINICS = {  # label: images
    "city": {"Psoriasis": 14, "Acne Vulgaris": 8, "Melanoma": 8, "Basal Cell Carcinoma": 8},
    "coast": {"malignant": 6, "some psoriasis": 3, "bcc": 8, "Guttate Psoriasis": 12, "Healthy": 5},
    "hills": {"MELANOMA": 9, "Nevus": 9, "papulosquamous": 5},
}
CODES = "condition,code\nmalignant,C43-C44\nsome psoriasis,L40\npapulosquamous,L40-L45\n"


@pytest.fixture(scope="module")
def clinics(tmp_path_factory):
    """Folders of flat pictures with noise, no two alike; the first of coast is one of city, compressed again."""
    root, draw = tmp_path_factory.mktemp("clinics"), np.random.default_rng(0)
    (root / "codes.csv").write_text(CODES)
    for clinic, labels in CLINICS.items():
        (root / clinic).mkdir()
        rows = [
            (f"{label}_{n}.png", f"p{n // 2}_{label}", label) for label, count in labels.items() for n in range(count)
        ]
        for name, _, _ in rows:
            coarse = draw.integers(0, 255, (6, 6, 3), dtype=np.uint8)
            cv2.imwrite(str(root / clinic / name), cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC))
        with (root / clinic / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("image", "person", "condition"), *rows])
    picture = cv2.imread(str(root / "city" / "Psoriasis_0.png"))
    cv2.imwrite(str(root / "coast" / "bcc_0.png"), cv2.GaussianBlur(picture, (3, 3), 0))
    return root


def mixture(root, **settings):
    sources = {
        name: CsvSource(root=str(root / name), table="labels.csv", group_column="person", aliases={"Healthy": None})
        for name in CLINICS
    }
    settings = {"near_duplicate_distance": None} | settings
    return MixtureSource(sources=sources, codes=str(root / "codes.csv"), **settings)


def counted(table, name):
    """Images by source that list a condition."""
    listed = table.labels[:, table.conditions.index(name)] > 0
    return dict(Counter(table.frame["source"][listed]))


def test_labels_of_one_code_are_one_condition_and_labels_above_others_are_none(clinics):
    table = mixture(clinics).load()
    assert table.conditions == (
        "Acne Vulgaris", "Basal Cell Carcinoma", "Melanoma", "Psoriasis", "Guttate Psoriasis", "Nevus",
    )  # fmt: skip
    assert counted(table, "Basal Cell Carcinoma") == {"city": 8, "coast": 8}
    assert counted(table, "Melanoma") == {"city": 8, "hills": 9}
    assert len(table) == sum(map(sum, (of.values() for of in CLINICS.values()))) - 5  # the healthy ones were asked out
    broad = dict(zip(table.broad, (table.broad_labels > 0).sum(axis=0).tolist(), strict=True))
    assert broad == {
        ("Basal Cell Carcinoma", "Melanoma"): 6,
        # "some psoriasis" and, by city and by hills' words, what none of their names tells apart
        ("Guttate Psoriasis", "Psoriasis"): 3 + 14 + 12 + 5,
    }
    assert table.only_broad.sum() == 6 + 3 + 5
    notes = "\n".join(table.notes)
    assert "coast: 'malignant' is above 2 conditions and means one of them" in notes
    assert "coast: 'bcc' (same code) counts as 'Basal Cell Carcinoma' (8 images)" in notes
    assert "city: 'Psoriasis' leaves open, since the source never names them: Guttate Psoriasis (14 images)" in notes


def test_intersection_and_list_take_finer_labels_to_the_condition_above(clinics):
    common = mixture(clinics, conditions="intersection")
    with pytest.raises(UserError, match="no condition is named by every one"):
        common.load()
    listed = mixture(clinics, conditions=["Psoriasis", "Melanoma"]).load()
    assert counted(listed, "Psoriasis") == {"city": 14, "coast": 12}
    assert any("'Guttate Psoriasis' (finer) counts as 'Psoriasis' (12 images)" in note for note in listed.notes)
    left = {item.reason: item.count for item in listed.left_out if not item.asked}
    assert left == {"no label of theirs means a condition of the mixture": 8 + 8 + 8 + 9}
    with pytest.raises(UserError, match="no label of the mixture's sources means 'Urticaria'"):
        mixture(clinics, conditions=["Psoriasis", "Urticaria"]).load()


def test_two_sets_that_name_both_leave_nothing_open():
    both = {"a": ["Psoriasis", "Guttate Psoriasis"], "b": ["Guttate Psoriasis", "Psoriasis"]}
    assert harmonize(both).meanings["b"]["Psoriasis"] == Meaning("same name", "Psoriasis")


def test_near_duplicates_across_sources_are_one_case_and_only_train_where_a_source_is_held_out(clinics):
    table = mixture(clinics, near_duplicate_distance=4).load()
    case = dict(zip(table.frame["image"], table.cases, strict=True))
    assert case["coast/bcc_0.png"] == case["city/Psoriasis_0.png"]
    assert len({one for image, one in case.items() if image.startswith("coast/bcc_")}) == 4
    held = mixture(clinics, near_duplicate_distance=4, held_out="coast").load()
    reasons = {item.reason: item.count for item in held.left_out}
    assert reasons["near-duplicates of images of coast, which is held out"] == 2  # the picture and its other half
    assert reasons["coast, which is held out: no single condition is known, so there is nothing to test"] == 9
    split = make_split(held, GivenSplitter(val_fraction=0.2), 0)
    assert set(held.frame["source"].iloc[split.test]) == {"coast"}
    assert set(held.frame["source"].iloc[np.r_[split.train, split.val]]) == {"city", "hills"}


def test_images_of_which_no_single_condition_is_known_are_for_training_with_their_cases(clinics):
    table = mixture(clinics).load()
    split = make_split(table, GroupStratifiedSplitter(), 0)
    assert set(split.parts[table.only_broad]) == {"train"}
    assert len(split.val) > 5
    assert len(split.test) > 5


@pytest.mark.parametrize("within", [None, ClassBalanced()])
def test_every_source_is_drawn_as_often_as_every_other(within):
    sources = np.array(["a"] * 90 + ["b"] * 9 + ["c"])
    labels, primary = np.eye(3)[np.arange(100) % 3], np.arange(100) % 3
    strategy = (PerSource() if within is None else PerSource(within)).of(sources)
    for seed in range(3):
        drawn = strategy.indices(labels, primary, np.random.default_rng(seed))
        assert Counter(sources[drawn].tolist()) == {"a": 34, "b": 33, "c": 33}
    if within is None:  # as often as can be: every image of a small source before any comes twice more
        assert set(Counter(drawn[sources[drawn] == "b"].tolist()).values()) <= {3, 4}


def test_what_is_wrong_is_one_line(clinics):
    with pytest.raises(UserError, match="two sources or more"):
        MixtureSource(sources={"a": CsvSource(root="x")})
    with pytest.raises(UserError, match=r"held_out: 'moon' is none of city, coast, hills"):
        mixture(clinics, held_out="moon")
    absent = MixtureSource(sources={"a": CsvSource(root=str(clinics / "nowhere")), "b": CsvSource(root="x")})
    with pytest.raises(UserError, match="no such folder"):
        absent.load()


def test_a_mixture_trains_tests_on_a_source_held_out_and_reports_by_source(clinics, tmp_path):
    lines = [
        f"  {name}: {{_target_: siglip_med.sources.CsvSource, root: {clinics / name}, group_column: person, "
        "aliases: {Healthy: null}}"
        for name in CLINICS
    ]
    sources = "{" + ",".join(line.strip() for line in lines) + "}"
    settings = two_steps(
        tmp_path,
        "data=mixture",
        f"data.source.sources={sources}",
        f"data.source.codes={clinics / 'codes.csv'}",
        "data.source.held_out=hills",
        "data/splitter=given",
        "data.splitter.val_fraction=0.3",
        "data/sampling=per_source",
        "experiment=layered",
    )
    train.run(settings)
    run = tmp_path / "run"
    counts = json.loads((run / "split_report.json").read_text())
    assert counts["images"]["test"] == 18
    assert any("of 14 images no single condition is known" in note for note in counts["notes"])
    test = Predictions.load(run / "predictions" / "test")
    assert [(attribute, group) for attribute, group, _ in subgroup_masks(test, ["source"])] == [("source", "hills")]
