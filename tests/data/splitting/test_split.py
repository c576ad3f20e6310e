import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siglip_med.core.errors import UserError
from siglip_med.data.splitting import stratification
from siglip_med.data.splitting.report import label_divergence
from siglip_med.data.splitting.split import GivenSplitter, GroupStratifiedSplitter, KFoldSplitter, Split, make_split
from siglip_med.data.splitting.stratification import leak_groups, stratify
from siglip_med.data.table import TableRow, build_table
from siglip_med.report.data_card import data_card
from siglip_med.sources import ScinSource
from tests.data.tables import random_table


def table_of(seed: int = 0, **settings):
    return random_table(np.random.default_rng(seed), **{"cases": 150, "conditions": 10, **settings})


def with_column(table, **columns):
    return replace(table, frame=table.frame.assign(**columns))


def divergence_by_hand(part: np.ndarray, whole: np.ndarray) -> float:
    p, q = part.sum(axis=0) / part.sum(), whole.sum(axis=0) / whole.sum()
    m = (p + q) / 2

    def kl(a: np.ndarray) -> float:
        return float(sum(x * np.log2(x / y) for x, y in zip(a, m, strict=True) if x > 0))

    return (kl(p) + kl(q)) / 2


def straddling(table, split) -> set[str]:
    places = [set(table.cases[rows]) for rows in (split.train, split.val, split.test)]
    return set().union(*(a & b for a, b in itertools.combinations(places, 2)))


@given(
    seed=st.integers(0, 2**31),
    cases=st.integers(3, 60),
    conditions=st.integers(1, 8),
    fractions=st.sampled_from([(0.7, 0.15, 0.15), (0.5, 0.25, 0.25), (0.8, 0.1, 0.1)]),
)
@settings(max_examples=40, deadline=None)
def test_every_row_once_no_case_twice_and_every_condition_in_train(seed, cases, conditions, fractions):
    table = table_of(seed, cases=cases, conditions=conditions)
    parts = GroupStratifiedSplitter(fractions).parts(table, seed=seed % 97)
    assert set(parts) <= {"train", "val", "test"}
    for case in set(table.cases):
        assert len(set(parts[table.cases == case])) == 1
    assert (table.labels[parts == "train"] > 0).any(axis=0).all()


def test_a_condition_with_three_cases_is_in_every_split():
    for seed in range(8):
        table = table_of(seed, cases=200, conditions=25)
        split = make_split(table, GroupStratifiedSplitter(), seed)
        listed = table.labels > 0
        cases = np.array([len(set(table.cases[column])) for column in listed.T])
        assert (cases < 3).any() or cases.min() < 10  # the tail is there
        for rows in (split.train, split.val, split.test):
            assert listed[rows].any(axis=0)[cases >= 3].all()
        report = split.report(table)
        expected = {
            (table.conditions[c], name)
            for name in ("train", "val", "test")
            for c in range(25)
            if not listed[getattr(split, name)][:, c].any()
        }
        assert {(item.condition, item.split) for item in report.missing} == expected
        assert all("too few for three splits" in item.reason for item in report.missing)


def test_shares_are_kept_far_better_than_by_chance():
    table = table_of(3, cases=400, conditions=15)
    split = make_split(table, GroupStratifiedSplitter(), seed=0)
    assert [len(split.train), len(split.val), len(split.test)] == pytest.approx(
        [0.7 * len(table), 0.15 * len(table), 0.15 * len(table)], abs=3
    )
    ours = split.report(table).divergence["val"]
    rng = np.random.default_rng(0)
    names = np.array(sorted(set(table.cases)))
    chance = []
    for _ in range(5):
        chosen = np.isin(table.cases, rng.permutation(names)[: round(0.15 * len(names))])
        chance.append(label_divergence(table.labels[chosen] > 0, table.labels > 0))
    assert ours < min(chance) / 5


def test_the_seed_decides_and_the_order_of_rows_does_not():
    table = table_of(1)
    split = make_split(table, GroupStratifiedSplitter(), seed=5)
    assert make_split(table, GroupStratifiedSplitter(), seed=5).hash == split.hash
    assert make_split(table, GroupStratifiedSplitter(), seed=6).hash != split.hash
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = replace(table, frame=table.frame.iloc[order].reset_index(drop=True), labels=table.labels[order])
    again = make_split(shuffled, GroupStratifiedSplitter(), seed=5)
    assert again.hash == split.hash
    pairs = sorted(zip(table.frame["image_id"], split.parts, strict=True))
    assert split.hash == hashlib.sha256("\n".join(f"{i}\t{p}" for i, p in pairs).encode()).hexdigest()


def test_every_case_of_a_rare_condition_gets_its_turn_in_train():
    """Three cases of one condition, one for each split: which one is learned from is up to the seed."""
    rows = [TableRow(f"{n}.jpg", {"rare" if n < 3 else f"c{n % 4}": 1.0}, n + 1, case=f"p{n}") for n in range(80)]
    table = build_table(rows, root=Path("photos"), source="t.csv")
    chosen = {
        tuple(np.flatnonzero(make_split(table, GroupStratifiedSplitter(), seed).parts[:3] == "train"))
        for seed in range(30)
    }
    assert chosen == {(0,), (1,), (2,)}


def test_cases_that_share_an_image_stay_together():
    table = table_of(2, cases=60)
    images = table.frame["image"].to_numpy(copy=True)
    cases = sorted(set(table.cases))
    # a chain: each of twenty cases shares an image with the next one
    for left, right in itertools.pairwise(cases[:20]):
        images[np.flatnonzero(table.cases == right)[0]] = images[np.flatnonzero(table.cases == left)[-1]]
    linked = with_column(table, image=images)
    groups = leak_groups(linked)
    joined = [set(linked.cases[groups == group]) for group in set(groups)]
    assert set().union(*joined) == set(cases)
    for seed in range(3):
        split = make_split(linked, GroupStratifiedSplitter(), seed)
        for image in set(images):
            assert len(set(split.parts[images == image])) == 1
        assert straddling(linked, split) == set()


def test_k_fold_tests_each_image_once():
    table = table_of(4)
    tested = np.zeros(len(table), dtype=int)
    for fold in range(4):
        split = make_split(table, KFoldSplitter(4, fold), seed=2)
        tested[split.test] += 1
        assert straddling(table, split) == set()
        following = make_split(table, KFoldSplitter(4, (fold + 1) % 4), seed=2)
        assert split.val.tolist() == following.test.tolist()
    assert (tested == 1).all()
    with pytest.raises(UserError, match="fold 4 of 4 is none; give 0 to 3"):
        KFoldSplitter(4, 4)


def test_the_given_split_is_honored():
    table = table_of(5)
    given_parts = make_split(table, GroupStratifiedSplitter(), 0).parts
    given_table = with_column(table, source_split=given_parts.astype(object))
    assert make_split(given_table, GivenSplitter(), 9).parts.tolist() == given_parts.tolist()

    without_val = np.where(given_parts == "val", "train", given_parts)
    table2 = with_column(table, source_split=without_val.astype(object))
    with pytest.raises(UserError, match=r"its split has no val; set data\.splitter\.val_fraction"):
        make_split(table2, GivenSplitter(), 0)
    split = make_split(table2, GivenSplitter(val_fraction=0.2), 0)
    assert split.test.tolist() == np.flatnonzero(given_parts == "test").tolist()
    assert len(split.val) == pytest.approx(0.2 * (without_val == "train").sum(), abs=3)
    assert straddling(table2, split) == set()

    torn = given_parts.astype(object)
    case = next(c for c in set(table.cases) if (table.cases == c).sum() > 1)
    torn[np.flatnonzero(table.cases == case)[:2]] = ["train", "test"]
    table3 = with_column(table, source_split=torn)
    with pytest.raises(UserError, match=f"separates images of 1 cases, the first '{case}'"):
        make_split(table3, GivenSplitter(), 0)
    torn_split = make_split(table3, GivenSplitter(allow_straddling=True), 0)
    assert torn_split.report(table3).straddling == [case]

    torn[7] = ""
    with pytest.raises(UserError, match=r"row 8: has no split \(1 rows\)"):
        make_split(with_column(table, source_split=torn), GivenSplitter(), 0)


@pytest.mark.parametrize("splitter", [GroupStratifiedSplitter, KFoldSplitter])
def test_a_split_that_the_data_comes_with_is_not_passed_over_unsaid(splitter):
    table = table_of(2)
    given_table = with_column(table, source_split=["test"] * 12 + ["train"] * (len(table) - 12))
    with pytest.raises(UserError, match=r"split of its own \(train \d+, test 12\), which .* pass over"):
        make_split(given_table, splitter(), 0)
    assert len(make_split(given_table, splitter(ignore_given=True), 0).parts) == len(table)


def test_a_condition_with_two_cases_is_trained_on_and_tested_but_not_validated():
    rows = [TableRow(f"{i}.jpg", {"common": 1.0}, i + 1, case=f"c{i}") for i in range(60)]
    rows += [TableRow(f"r{i}.jpg", {"rare": 1.0}, 61 + i, case=f"r{i}") for i in range(2)]
    table = build_table(rows, root=Path("x"), source="t")
    for seed in range(6):
        parts = GroupStratifiedSplitter().parts(table, seed)
        assert sorted(parts[60:]) == ["test", "train"]


def test_a_big_table_is_improved_as_far_as_a_small_one(monkeypatch):
    worst = {}
    for size in (8000, 30):  # one move at a time, and several
        monkeypatch.setattr(stratification, "_ONE_BY_ONE", size)
        worst[size] = 0.0
        for seed in range(4):
            table = table_of(seed, cases=300, conditions=12)
            split = make_split(table, GroupStratifiedSplitter(), 1)
            worst[size] += max(split.report(table).divergence.values())
            assert straddling(table, split) == set()
            assert (table.labels[split.train] > 0).any(axis=0).all()
    assert worst[30] < 1.1 * worst[8000]


def test_the_size_of_a_part_counts_beside_its_labels():
    for seed in range(6):
        table = table_of(seed, cases=120, conditions=20, images_a_case=6)
        parts = stratify(table, [0.7, 0.15, 0.15], seed)
        for part, share in enumerate((0.7, 0.15, 0.15)):
            assert abs((parts == part).sum() - share * len(table)) < 1


def test_too_few_cases_and_wrong_fractions_are_said():
    with pytest.raises(UserError, match="2 cases do not fill 3 splits"):
        make_split(table_of(cases=2), GroupStratifiedSplitter(), 0)
    for fractions in ((0.7, 0.2, 0.2), (1.0, 0.0, 0.0), (0.5, 0.5)):
        with pytest.raises(UserError, match="not three shares that sum to 1"):
            GroupStratifiedSplitter(fractions)


def test_saved_and_loaded(tmp_path):
    table = table_of(6)
    split = make_split(table, GroupStratifiedSplitter(), 3)
    path = tmp_path / "run" / "split.csv"
    split.save(path)
    assert path.read_text().splitlines()[0] == "image_id,case,split"
    order = np.random.default_rng(1).permutation(len(table))
    shuffled = replace(table, frame=table.frame.iloc[order].reset_index(drop=True), labels=table.labels[order])
    loaded = Split.load(path, shuffled)
    assert loaded.hash == split.hash
    assert loaded.parts.tolist() == split.parts[order].tolist()
    assert [file.name for file in path.parent.iterdir()] == ["split.csv"]

    with pytest.raises(UserError, match=r"is the split of other data: 0 images of random are not in it and 10"):
        Split.load(path, replace(table, frame=table.frame.iloc[10:].reset_index(drop=True), labels=table.labels[10:]))
    with pytest.raises(UserError, match="1 images of random are not in it and 1 of its own"):
        Split.load(path, with_column(table, image_id=["new", *table.frame["image_id"][1:]]))
    path.write_text(path.read_text().replace(",val\n", ",valid\n"))
    with pytest.raises(UserError, match=r"split\.csv, row \d+: split 'valid'"):
        Split.load(path, table)
    with pytest.raises(UserError, match="no such file"):
        Split.load(tmp_path / "none.csv", table)


def test_report_in_figures(tmp_path):
    table = table_of(7).with_notes("3 images are left out")
    split = make_split(table, GroupStratifiedSplitter(), 3)
    report = split.report(table)
    listed = table.labels > 0
    for name, rows in (("train", split.train), ("val", split.val), ("test", split.test)):
        assert report.images[name] == len(rows)
        assert report.cases[name] == len(set(table.cases[rows]))
        assert report.divergence[name] == pytest.approx(divergence_by_hand(listed[rows], listed), abs=1e-12)
        for column, condition in enumerate(table.conditions):
            assert report.counts[condition][name] == listed[rows, column].sum()
            assert report.primary_counts[condition][name] == (table.frame["primary"][rows] == column).sum()
    assert report.straddling == []
    report.save(tmp_path / "split_report.json")
    saved = json.loads((tmp_path / "split_report.json").read_text())
    assert saved["hash"] == split.hash
    assert saved["counts"] == report.counts
    assert saved["notes"] == ["3 images are left out"]
    assert saved["read"] == saved["used"] == len(table)
    assert f"{len(table):,} rows read = {len(table):,} used + 0 left out" in report.account()
    text = (tmp_path / "split_report.txt").read_text()
    assert text == str(report)
    assert all(condition in text for condition in table.conditions)


class Alternating:
    """A splitter of somebody's own."""

    def parts(self, table, seed):
        return np.array(["train", "val", "test"])[np.arange(len(table)) % 3]


def test_a_report_and_a_data_card_say_how_the_split_was_made(tmp_path):
    table = table_of(2)
    given = with_column(table, source_split=KFoldSplitter(4, 1).parts(table, 0))
    for split, of, how in (
        (make_split(table, GroupStratifiedSplitter(), 4), table, "70/15/15 by case, stratified, seed 4"),
        (make_split(table, GroupStratifiedSplitter((0.6, 0.2, 0.2)), 0), table, "60/20/20 by case, stratified, seed 0"),
        (make_split(table, KFoldSplitter(4, 1), 2), table, "fold 1 of 4 by case, stratified, seed 2"),
        (make_split(given, GivenSplitter(), 0), given, "as the data set gives it, seed 0"),
        (make_split(table, Alternating(), 0), table, "Alternating, seed 0"),
    ):
        report = split.report(of)
        assert f"- split: {how}" in report.account()
        assert f"| split | {how}, hash {split.hash[:12]} |" in data_card(report)
    split.save(tmp_path / "split.csv")
    assert Split.load(tmp_path / "split.csv", table).report(table).how == "as in split.csv, a file of an earlier split"


def test_dividing_some_rows_leaves_the_others_alone():
    table = table_of(8)
    rows = np.arange(0, len(table), 2)
    part = stratify(table, [0.5, 0.5], seed=0, rows=rows)
    assert part.shape == rows.shape
    assert abs((part == 0).mean() - 0.5) < 0.05


def test_scin_over_five_seeds(shared):
    """The promise: nothing straddles, nothing is missing, and label shares within 0.001 bits of the whole."""
    table = ScinSource(root=str(shared / "data/metadata/scin")).load()
    listed = table.labels > 0
    groups = leak_groups(table)
    cases = np.array([len(set(groups[column])) for column in listed.T])
    for seed in range(5):
        split = make_split(table, GroupStratifiedSplitter(), seed)
        assert straddling(table, split) == set()
        images = table.frame["image"].to_numpy()
        assert not set(images[split.train]) & set(images[np.r_[split.val, split.test]])
        assert not set(images[split.val]) & set(images[split.test])
        assert listed[split.train].any(axis=0).all()
        for rows in (split.val, split.test):
            assert listed[rows].any(axis=0)[cases >= 3].all()
            assert divergence_by_hand(listed[rows], listed) < 0.001
        assert split.report(table).straddling == []
