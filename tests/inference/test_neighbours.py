"""The nearest training cases: exact, sealed, of one model, and with thumbnails only where they are allowed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from siglip_med.commands.train import Result
from siglip_med.core.errors import UserError
from siglip_med.core.seals import write_sealed
from siglip_med.inference.neighbours import NEIGHBOURS, Neighbours, training_cases
from siglip_med.inference.probe import frozen_features


@pytest.fixture(scope="module")
def found(short_run: Result) -> Neighbours:
    return Neighbours.load(short_run.folder / NEIGHBOURS, short_run.components.model)


def test_a_run_keeps_every_training_image_with_labels_and_thumbnail(short_run: Result, found: Neighbours) -> None:
    data = short_run.components.data
    np.testing.assert_array_equal(found.rows, data.split.train)
    np.testing.assert_array_equal(found.labels, data.table.labels[data.split.train])
    assert found.cases == tuple(data.table.cases[data.split.train])
    assert len(found.thumbnails) == len(found)
    assert all(one.startswith(b"\xff\xd8") for one in found.thumbnails)


def test_the_nearest_are_those_of_a_loop_and_an_image_is_nearest_to_itself(found: Neighbours) -> None:
    asked = 3 * found.embeddings[7] + 0.01
    cosines = [float(np.dot(asked, one) / np.linalg.norm(asked) / np.linalg.norm(one)) for one in found.embeddings]
    expected = sorted(range(len(found)), key=lambda place: -cosines[place])[:5]
    nearest = found.nearest(asked, 5)
    assert [one.row for one in nearest] == [int(found.rows[place]) for place in expected]
    assert [one.cosine for one in nearest] == pytest.approx([cosines[place] for place in expected], abs=1e-5)
    assert nearest[0].row == found.rows[7]
    assert nearest[0].thumbnail == found.thumbnails[7]
    listed = {found.conditions[column] for column in np.flatnonzero(found.labels[7])}
    assert set(nearest[0].conditions) == listed
    with pytest.raises(UserError, match="different models"):
        found.nearest(asked[:-1], 5)


def test_more_images_than_asked_for_are_drawn_by_the_seed_and_said(short_run: Result) -> None:
    components = short_run.components
    first, note = training_cases(components.model, components.data, 11, seed=3)
    again, _ = training_cases(components.model, components.data, 11, seed=3)
    other, _ = training_cases(components.model, components.data, 11, seed=4)
    assert len(first) == 11
    assert f"11 of {len(components.data.split.train):,} training images" in note
    np.testing.assert_array_equal(first.rows, again.rows)
    assert not np.array_equal(first.rows, other.rows)


def test_features_at_hand_give_the_same_cases_and_no_image_is_read_again(
    short_run: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    components = short_run.components
    expected, note = training_cases(components.model, components.data, 11, seed=3)
    features, rows = frozen_features(components.model, components.data, "train")
    order = np.random.default_rng(0).permutation(len(rows))
    with monkeypatch.context() as patch:
        patch.setattr(type(components.data), "full_loader", None)
        known = (features[order], rows[order])
        found, said = training_cases(components.model, components.data, 11, 3, known)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-6)
    assert said == note
    some = rows != expected.rows[4]
    found, _ = training_cases(components.model, components.data, 11, 3, (features[some], rows[some]))
    np.testing.assert_array_equal(found.embeddings, expected.embeddings)


def test_a_source_without_the_permission_gives_labels_alone(
    short_run: Result, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    components = short_run.components
    monkeypatch.setattr(components.data, "table", replace(components.data.table, thumbnails=False))
    kept, note = training_cases(components.model, components.data, 5, seed=0)
    assert "without thumbnails" in note
    kept.save(tmp_path / NEIGHBOURS)
    read = Neighbours.load(tmp_path / NEIGHBOURS, components.model)
    assert read.thumbnails == ()
    assert read.nearest(read.embeddings[0], 1)[0].thumbnail is None
    assert read.nearest(read.embeddings[0], 1)[0].conditions


def test_an_absent_altered_or_foreign_file_is_one_line(short_run: Result, found: Neighbours, tmp_path: Path) -> None:
    model, path = short_run.components.model, tmp_path / NEIGHBOURS
    with pytest.raises(UserError, match=r"evaluation\.neighbours=0"):
        Neighbours.load(path, model)
    whole = (short_run.folder / NEIGHBOURS).read_bytes()
    path.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    with pytest.raises(UserError, match="damaged"):
        Neighbours.load(path, model)
    path.write_bytes(whole[:-300])
    with pytest.raises(UserError, match="truncated"):
        Neighbours.load(path, model)
    replace(found, weights="0" * 32).save(path)
    with pytest.raises(UserError, match="other weights"):
        Neighbours.load(path, model)
    replace(found, labels=found.labels[:-1]).save(path)
    with pytest.raises(UserError, match="do not fit"):
        Neighbours.load(path, model)
    write_sealed(path, lambda file: np.savez(file, embeddings=np.array([{}], dtype=object)), archive=True)
    with pytest.raises(UserError, match="no file of training cases"):
        Neighbours.load(path, model)


def test_the_fingerprint_changes_with_a_trained_weight(short_run: Result) -> None:
    model = short_run.components.model
    before = model.fingerprint()
    tensor = next(value for name, value in model.trainable_state().items() if value.ndim == 2)
    tensor[0, 0] += 1
    changed = model.fingerprint()
    tensor[0, 0] -= 1
    assert changed != before
