"""Look-alikes: every pair is found, groups join without chaining, a person's word counts, and splits are compared."""

import networkx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siglip_med.core.errors import UserError
from siglip_med.data.joining import LARGEST, as_one_case, join_look_alikes
from siglip_med.data.look_alike_files import find_look_alikes, save_groups
from siglip_med.data.look_alikes import (
    Agreement,
    label_agreement,
    look_alike_pairs,
    many_pairs,
    nearest,
    unit,
    whitened,
)
from siglip_med.data.splitting.look_alikes import look_across
from siglip_med.sources import CsvSource
from tests.data.tables import random_table

NONE = np.zeros((0, 2), np.int64)


def arc(count: int, step: float) -> np.ndarray:
    """Images in a row: each looks like its neighbours, the ends do not look like each other."""
    angle = np.arange(count) * step
    return unit(np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], axis=1))


def random_features(seed: int, count: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, 3)))


@given(st.integers(0, 10_000), st.integers(1, 40), st.floats(-0.5, 0.99))
def test_pairs_are_those_of_the_whole_matrix(seed, count, threshold):
    features = random_features(seed, count)
    cosines = features @ features.T
    found = look_alike_pairs(features, threshold)
    expected = [(i, j) for i in range(count) for j in range(i + 1, count) if cosines[i, j] >= threshold]
    assert sorted(map(tuple, found.rows.tolist())) == expected
    assert found.found == len(expected)
    np.testing.assert_allclose(found.cosines, cosines[tuple(found.rows.T)], atol=1e-6)


def test_of_too_many_pairs_those_are_kept_that_connect_the_same_images():
    features = random_features(0, 1500)
    every, few = look_alike_pairs(features, 0.995), look_alike_pairs(features, 0.995, most=500)
    assert few.found == every.found > 2500
    assert len(few.rows) < len(every.rows)

    def parts(pairs):
        graph = networkx.Graph(pairs.rows.tolist())
        return sorted(sorted(part) for part in networkx.connected_components(graph))

    assert parts(few) == parts(every)


def test_the_nearest_of_others_is_found_in_blocks():
    queries, among = random_features(1, 600), random_features(2, 700)
    cosines, rows = nearest(queries, among)
    whole = queries @ among.T
    assert rows.tolist() == whole.argmax(axis=1).tolist()
    np.testing.assert_allclose(cosines, whole.max(axis=1), atol=1e-6)


@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_joined_groups_split_no_case_and_chain_over_no_two_labels(seed, count, conditions):
    rng = np.random.default_rng(seed)
    features, cases = random_features(seed, count), rng.integers(0, 12, count).astype(str)
    labels = np.eye(conditions)[rng.integers(0, conditions, count)]
    pairs = look_alike_pairs(features, 0.9)
    joined, said = join_look_alikes(cases, pairs, features, labels, 0.9)
    assert len({*zip(cases, joined, strict=True)}) == len(set(cases))
    cosines = features @ features.T
    graph = networkx.Graph(np.stack([cases[pairs.rows[:, 0]], cases[pairs.rows[:, 1]]], axis=1).tolist())
    single = {case: min(part) for part in networkx.connected_components(graph) for case in part}
    if "cut at" not in said:
        assert joined.tolist() == [single.get(case, case) for case in cases]
    for name in set(joined):
        rows = np.flatnonzero(joined == name)
        names = set(cases[rows])
        best = [cosines[np.ix_(cases == a, cases == b)].max() for a in names for b in names]
        assert len(names) <= 2 or labels[rows].all(axis=0).any() or min(best) >= 0.9 - 1e-4


def test_five_thousand_in_a_row_are_cut_and_said():
    features = arc(5000, 0.01)
    cases = np.array([f"c{row:04d}" for row in range(5000)])
    pairs = look_alike_pairs(features, 0.999)
    joined, said = join_look_alikes(cases, pairs, features, np.ones((5000, 1)), 0.999)
    _, sizes = np.unique(joined, return_counts=True)
    assert sizes.max() <= LARGEST
    assert len(sizes) < 2500
    assert "join 5,000 cases to" in said
    assert f"of more than {LARGEST} images were cut at {len(sizes) - 1:,} weakest links" in said


def test_a_chain_of_two_labels_breaks_at_its_weakest_link_and_one_label_holds():
    angle = np.array([0.0, 0.30, 0.70, 1.00])
    features = unit(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    pairs, cases = look_alike_pairs(features, np.cos(0.45)), np.array(list("abcd"))
    two, said = join_look_alikes(cases, pairs, features, np.eye(2)[[0, 0, 1, 1]], np.cos(0.45))
    assert two.tolist() == ["a", "a", "c", "c"]
    assert "1 chains of several labels" in said
    one, said = join_look_alikes(cases, pairs, features, np.ones((4, 1)), np.cos(0.45))
    assert one.tolist() == ["a"] * 4
    assert "cut" not in said


@pytest.mark.parametrize("count", [1, 2, 300])
def test_identical_images_are_one_group_whatever_their_labels(count):
    features, cases = unit(np.ones((count, 4))), np.arange(count).astype(str)
    labels = np.eye(2)[np.arange(count) % 2]
    joined, said = join_look_alikes(cases, look_alike_pairs(features, 0.9), features, labels, 0.9)
    assert set(joined) == {"0"}
    assert "cut" not in said
    agreement = label_agreement(many_pairs(features), cases, labels)
    assert agreement.proposed() is None  # labels agree as often as by chance


def test_the_proposed_threshold_is_where_agreement_ends():
    low = np.array([0.95, 0.9, 0.85, 0.8, 0.75])
    pairs, good = np.array([20, 8, 14, 30, 40]), np.array([1.0, 1.0, 1.0, 0.95, 0.7])
    assert Agreement(low, pairs, good, 0.0).proposed() == 0.8
    # 8 and 14 pairs are judged together: 4 + 14 of 22 agree
    assert Agreement(low, pairs, np.array([1.0, 0.5, 1.0, 0.95, 0.7]), 0.0).proposed() == 0.95
    assert Agreement(low, pairs, good - [0, 0, 0, 0.03, 0], 0.5).proposed() == 0.85  # (.92 - .5) / .5 is .84
    assert Agreement(low, pairs, good, 1.0).proposed() is None


def test_agreement_is_counted_between_cases_alone():
    features, labels = arc(4, 0.2), np.eye(3)[[0, 0, 0, 1]]
    found = label_agreement(look_alike_pairs(features, 0.8), np.array(["a", "a", "b", "c"]), labels)
    # cosines by steps: 1 .980 (a2-b agree, b-c not), 2 .921 (a1-b agree, a2-c not), 3 .825 (a1-c not)
    assert found.low.tolist() == [0.95, 0.9, 0.85, 0.8]
    assert found.pairs.tolist() == [2, 2, 0, 1]
    assert found.agree.tolist() == [0.5, 0.5, 0.0, 0.0]
    assert found.chance == pytest.approx(2 / 5)


def test_whitening_tells_a_lesion_from_what_all_images_share():
    rng = np.random.default_rng(0)
    kind, own = rng.standard_normal((2, 32)), rng.standard_normal((100, 32))
    features = 8 + 8 * kind[np.arange(100) % 2] + own
    features[50:60] = features[:10] + 0.3 * rng.standard_normal((10, 32))
    same = np.array([(row, row + 50) for row in range(10)])

    def gap(values):
        cosines = values @ values.T
        others = np.triu(np.ones_like(cosines, bool), 1)
        others[tuple(same.T)] = False
        return cosines[tuple(same.T)].min() - cosines[others].max()

    assert gap(unit(features)) < 0.05
    assert gap(whitened(features)) > 0.1
    np.testing.assert_allclose(whitened(np.ones((5, 3))) @ whitened(np.ones((5, 3))).T, 1, atol=1e-3)
    assert whitened(np.ones((1, 3))).shape == (1, 4)


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_features_without_a_direction_stop_with_one_line(bad):
    features = np.ones((3, 4))
    features[1] = bad
    with pytest.raises(UserError, match="features of 1 of 3 images are zero or not finite, the first of image 2"):
        unit(features)


@pytest.fixture
def photographs(tmp_path):
    """Forty images of two conditions in a CSV; 20 + n is a look-alike of n, the first eight of them."""
    rng = np.random.default_rng(0)
    rows = [f"{row}.jpg,{'Acne' if row % 2 else 'Eczema'},{'' if row else 'p'}" for row in range(40)]
    lines = ["image,condition,patient", *rows]
    (tmp_path / "labels.csv").write_text("\n".join([*lines, "40.jpg,,"]))
    table = CsvSource(root=str(tmp_path), condition_column="condition").read()
    features = rng.standard_normal((40, 12))
    features[20:28] = features[:8] + 0.01 * rng.standard_normal((8, 12))
    return table, features


def test_a_persons_word_counts_and_the_group_column_is_read_again(photographs, tmp_path):
    table, features = photographs
    first = find_look_alikes(table, features, 0.9, NONE)
    assert first.groups[[0, 20]].tolist() == ["0.jpg", "0.jpg"]
    assert len(np.unique(first.groups)) == 32
    assert list(first.listed["same"][:8]) == [""] * 8
    marks = first.listed.set_index("image_a")
    marks.loc["0.jpg", "same"], marks.loc["1.jpg", "same"] = "no", "YES"
    extra = pd.DataFrame([{"image_a": "30.jpg", "image_b": "31.jpg", "same": "yes"}])
    path = tmp_path / "look_alikes.csv"
    pd.concat([marks.reset_index(), extra]).to_csv(path, index=False)
    again = find_look_alikes(table, features, 0.9, NONE, path)
    assert again.groups[20] != again.groups[0]
    assert again.groups[30] == again.groups[31]
    assert len(np.unique(again.groups)) == 32
    assert f"{path}: 2 pairs marked yes, 1 marked no" in again.notes
    assert "no" in set(again.listed["same"])
    save_groups(tmp_path / "groups.csv", table, again.groups)
    read = CsvSource(
        root=str(tmp_path), table="groups.csv", condition_column="condition", group_column="look_alike_group"
    )
    assert read.read().cases.tolist() == again.groups.tolist()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("0.jpg,20.jpg,maybe", "row 1: same is 'maybe'; write yes, no, or nothing"),
        ("0.jpg,x.jpg,no", "'x.jpg' is no image of"),
        ("0.jpg,20.jpg,no\n20.jpg,0.jpg,yes", "row 2: is marked yes, and no in another row"),
        ("0.jpg,1.jpg,yes\n1.jpg,2.jpg,yes\n0.jpg,2.jpg,no", "0.jpg and 2.jpg are marked no, but .* join them"),
    ],
)
def test_marks_that_make_no_sense_stop_with_their_row(rows, said, photographs, tmp_path):
    table, features = photographs
    path = tmp_path / "marks.csv"
    path.write_text(f"image_a,image_b,same\n{rows}\n")
    with pytest.raises(UserError, match=said):
        find_look_alikes(table, features, 0.9, NONE, path)


def test_look_alikes_become_one_case_or_the_run_says_what_is_missing(photographs):
    table, features = photographs
    joined = as_one_case(table, features, 0.9)
    assert len(np.unique(joined.cases)) == 32
    assert joined.notes[-1] == "8 pairs of look-alikes (cosine 0.900 and more) join 40 cases to 32"
    with pytest.raises(UserError, match=r"at no cosine do labels .* give data.look_alikes_threshold"):
        as_one_case(table, np.random.default_rng(3).standard_normal((40, 64)), None)


def test_what_a_split_separates_is_counted_and_listed(photographs):
    table, features = photographs
    rows = {"train": np.arange(0, 20), "val": np.arange(28, 40), "test": np.arange(20, 28)}
    found = look_across(table, {name: (features[of], of) for name, of in rows.items()}, 25, 0.9)
    assert found.sentence() == (
        "8 of 8 test images (100.0%) have a look-alike in training (cosine 0.900 and more of the base's features, as "
        "set; 20 of 25 training images looked through); labels agree in 100% of them."
    )
    values = whitened(features[np.concatenate(list(rows.values()))])
    values = values[np.argsort(np.concatenate(list(rows.values())))]
    np.testing.assert_allclose(found.nearest, (values[20:28] @ values[:20].T).max(axis=1), atol=1e-6)
    assert set(zip(found.pairs["image_a"], found.pairs["image_b"], strict=True)) == {
        (f"{row + 20}.jpg", f"{row}.jpg") for row in range(8)
    }
    nothing = look_across(table, {name: (features[of], of) for name, of in rows.items()}, 20, None)
    assert nothing.sentence().startswith("Look-alikes across splits are not counted")
    assert len(nothing.pairs) == 0


def test_a_random_table_of_one_image_has_no_pairs():
    table = random_table(np.random.default_rng(0), cases=1, conditions=2, images_a_case=1)
    found = find_look_alikes(table, np.ones((len(table), 3)), None, NONE)
    assert found.threshold is None
    assert len(found.listed) == 0


def test_images_that_a_person_told_apart_are_apart_though_others_link_them():
    angle = np.array([0.0, 0.1, 0.25])
    features, cases = unit(np.stack([np.cos(angle), np.sin(angle)], axis=1)), np.array(list("abc"))
    pairs = look_alike_pairs(features, 0.9)
    assert set(join_look_alikes(cases, pairs, features, np.ones((3, 1)), 0.9)[0]) == {"a"}
    apart, said = join_look_alikes(cases, pairs, features, np.ones((3, 1)), 0.9, np.array([[0, 2]]))
    assert apart.tolist() == ["a", "a", "c"]
    assert "cut at 1 weakest links" in said
