import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siglip_med.core.errors import UserError
from siglip_med.metrics import Predictions, headline_metrics
from tests.metrics.simulated import make_predictions


def test_saved_predictions_come_back_bit_for_bit(tmp_path):
    predictions = make_predictions()
    predictions.save(tmp_path / "test")
    loaded = Predictions.load(tmp_path / "test")
    for field in dataclasses.fields(Predictions):
        before, after = getattr(predictions, field.name), getattr(loaded, field.name)
        if isinstance(before, np.ndarray):
            np.testing.assert_array_equal(before, after)
        elif isinstance(before, pd.DataFrame):
            assert before.astype(str).to_numpy().tolist() == after.astype(str).to_numpy().tolist()
            assert list(before.columns) == list(after.columns)
        else:
            assert before == after, field.name
    assert headline_metrics(loaded) == headline_metrics(predictions)


def test_unknown_stays_the_empty_text(tmp_path):
    predictions = make_predictions()
    predictions.save(tmp_path)
    unknown = (predictions.frame["skin_tone"] == "").sum()
    assert (Predictions.load(tmp_path).frame["skin_tone"] == "").sum() == unknown > 0


def test_metrics_can_be_recomputed_with_numpy_alone(tmp_path):
    predictions = make_predictions()
    predictions.save(tmp_path)
    with np.load(tmp_path / "arrays.npz") as arrays:
        top = arrays["logits"].argmax(axis=1)
        right = (arrays["labels"][np.arange(len(top)), top] > 0).mean()
    assert right == pytest.approx(headline_metrics(predictions)["r_at_1"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=6), min_size=4, max_size=4))
def test_any_text_of_the_table_comes_back(tmp_path, texts):
    predictions = make_predictions(images=4)
    frame = predictions.frame.assign(site=texts)
    dataclasses.replace(predictions, frame=frame).save(tmp_path)
    assert Predictions.load(tmp_path).frame["site"].tolist() == texts


def test_the_folder_of_an_older_version_is_refused_in_one_line(tmp_path):
    (tmp_path / "images.parquet").write_bytes(b"PAR1")
    (tmp_path / "meta.json").write_text('{"format": "siglip_med.predictions", "version": 1, "images": 200}')
    with pytest.raises(UserError, match=r"format version 1, this program reads 2.*recompute=true") as error:
        Predictions.load(tmp_path)
    assert "\n" not in str(error.value)


def test_empty_split_is_saved_too(tmp_path):
    none = make_predictions().take(np.array([], dtype=int))
    none.save(tmp_path)
    assert len(Predictions.load(tmp_path)) == 0


@pytest.mark.parametrize("name", ["meta.json", "images.csv", "arrays.npz"])
def test_a_missing_or_broken_file_is_named(tmp_path, name):
    make_predictions().save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for broken in (b"{}", b"", whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(UserError, match="cannot be read"):
            Predictions.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=name) as error:
        Predictions.load(tmp_path)
    assert "\n" not in str(error.value)


def test_files_of_two_runs_are_not_mixed(tmp_path):
    make_predictions(images=200).save(tmp_path)
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps(meta | {"images": 199}))
    with pytest.raises(UserError, match="200 rows"):
        Predictions.load(tmp_path)


def test_a_failed_save_keeps_the_earlier_predictions(tmp_path):
    good = make_predictions()
    good.save(tmp_path)
    bad = dataclasses.replace(good, meta={"run": object()})
    with pytest.raises(TypeError):
        bad.save(tmp_path)
    assert headline_metrics(Predictions.load(tmp_path)) == headline_metrics(good)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((3, 12))}, "labels has shape"),
        ({"labels": np.full((200, 12), 2.0)}, "outside"),
        ({"labels": np.zeros((200, 12))}, "primary of row 0"),
        ({"primary": np.full(200, 12)}, "primary"),
        ({"dissimilarity": np.arange(144.0).reshape(12, 12)}, "symmetric"),
        ({"conditions": ("a",) * 12}, "twice"),
        ({"codes": ("a",)}, "codes"),
        ({"chapters": ("a",)}, "chapters"),
        ({"train_counts": np.full(12, -1)}, "train_counts"),
        ({"text_embeddings": np.zeros((3, 8))}, "text_embeddings"),
        ({"image_embeddings": np.zeros((3, 8))}, "image_embeddings"),
        ({"frame": pd.DataFrame({"image": ["a"] * 200})}, "image_id"),
        ({"frame": pd.DataFrame({"image": ["a"]})}, "rows"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make_predictions(), **change)


def test_diverged_run_is_refused_with_the_image():
    predictions = make_predictions()
    logits = predictions.logits.copy()
    logits[7, 3] = np.nan
    with pytest.raises(UserError, match="00007"):
        predictions.with_logits(logits)


def test_take_by_mask_and_by_repeated_rows():
    predictions = make_predictions()
    mask = (predictions.frame["sex"] == "female").to_numpy()
    rows = np.array([5, 5, 2])
    assert len(predictions.take(mask)) == mask.sum()
    taken = predictions.take(rows)
    np.testing.assert_array_equal(taken.logits, predictions.logits[rows])
    assert taken.frame["image"].tolist() == predictions.frame["image"].iloc[rows].tolist()
    assert taken.frame.index.tolist() == [0, 1, 2]
