"""The plain loop of the studies is a run of train.py without its trimmings."""

import numpy as np
import pytest
import torch

from experiments.heads import Bench, fit, k_shot, long_tail
from siglip_med.commands import train
from siglip_med.core.errors import UserError
from tests.models.tiny import write_dual
from tests.short_runs import small_settings

FROZEN = ["model=dual_encoder", "model/adaptation=frozen", "features=cached", "trainer.max_steps=17"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    towers = write_dual(tmp_path_factory.mktemp("study_towers"))
    return [*FROZEN, *(f"model.{tower}={path}" for tower, path in towers.items()), "seed=1"]


@pytest.fixture(scope="module")
def bench(cache, tmp_path_factory, words):
    return Bench.build(small_settings(cache, tmp_path_factory.mktemp("bench"), *words, "model.dropout=0.1"))


def test_its_weights_and_scores_are_those_of_train(bench, cache, tmp_path, words):
    settings = small_settings(cache, tmp_path, *words, "experiment=layered", "callbacks.checkpoint=null", "refit=null")
    result = train.run(settings)  # several epochs, dropout .3: the random numbers have to agree too
    assert result.trainer.current_epoch > 1
    steps = []
    fit(bench, settings, seen=steps.append)
    expected = result.components.model.trainable_state()
    for name, value in bench.model.trainable_state().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    assert steps[-1] == 17
    for split, theirs in (("val", result.tuned.val), ("test", result.tuned.test)):
        ours = bench.predict(split)
        np.testing.assert_allclose(ours.logits, theirs.logits, rtol=1e-3, atol=1e-3)
        assert (ours.labels == theirs.labels).all()


def test_every_run_starts_from_the_same_heads(bench, cache, tmp_path, words):
    settings = small_settings(cache, tmp_path, *words, "experiment=baseline", "trainer.max_steps=3")
    fit(bench, settings)
    first = {name: value.clone() for name, value in bench.model.trainable_state().items()}
    fit(bench, small_settings(cache, tmp_path, *words, "experiment=infonce", "trainer.max_steps=3"))
    fit(bench, settings)
    for name, value in bench.model.trainable_state().items():
        assert torch.equal(value, first[name])


def test_the_average_is_that_of_the_last_weights(bench, cache, tmp_path, words):
    settings = small_settings(cache, tmp_path, *words, "experiment=baseline", "trainer.max_steps=4")
    last = fit(bench, settings, average_over=0.25)
    for name, value in bench.model.trainable_state().items():
        assert torch.equal(value, last[name])
    half = fit(bench, settings, average_over=0.5)
    assert not torch.equal(half["image_head.linear.weight"], last["image_head.linear.weight"])


def test_a_shuffled_tree_reaches_the_loss_and_not_the_scores(bench, cache, tmp_path, words):
    settings = small_settings(cache, tmp_path, *words, "experiment=layered", "trainer.max_steps=1")
    matrix = bench.training_dissimilarity(settings, shuffled=False)
    shuffled = bench.training_dissimilarity(settings, shuffled=True)
    assert not np.array_equal(matrix, shuffled)
    np.testing.assert_allclose(np.sort(matrix.ravel()), np.sort(shuffled.ravel()))
    fit(bench, settings, shuffled=True)
    np.testing.assert_allclose(bench.module.get_buffer("dissimilarity").numpy(), shuffled, rtol=1e-6)
    np.testing.assert_array_equal(bench.predict("val").dissimilarity, bench.components.dissimilarity)


def test_training_rows_are_cut_and_come_back(bench):
    rows = bench.split.train
    primary = bench.components.data.table.frame["primary"].to_numpy()
    bench.train_on(k_shot(1, seed=0))
    data = bench.components.data  # what a baseline is fitted on, too
    assert torch.cat([batch.index for batch in data.full_loader("train")]).tolist() == data.split.train.tolist()
    kept = bench.components.data.split.train
    assert set(kept) < set(rows)
    assert len(kept) == len(np.unique(primary[kept])) == len(np.unique(primary[rows]))
    assert bench.components.data.train_counts.sum() == (bench.components.data.table.labels[kept] > 0).sum()
    assert np.array_equal(bench.components.data.split.test, bench.split.test)
    bench.train_on(None)
    assert np.array_equal(bench.components.data.split.train, rows)


def test_too_few_images_for_a_batch_stop_a_run_on_features(bench, cache, tmp_path, words):
    bench.train_on(lambda rows, primary: rows[:3])
    with pytest.raises(UserError, match=r"3 training images a rank do not fill one batch of"):
        fit(bench, small_settings(cache, tmp_path, *words, "experiment=baseline", "trainer.max_steps=1"))
    bench.train_on(None)


def test_a_long_tail_falls_geometrically():
    primary = np.repeat(np.arange(5), 300)
    kept = long_tail(200, 4, seed=0)(np.arange(1500), primary)
    assert sorted(np.bincount(primary[kept])) == [4, 11, 28, 75, 200]
    assert not np.array_equal(kept, long_tail(200, 4, seed=1)(np.arange(1500), primary))


def test_another_seed_on_the_same_towers_is_that_seeds_bench(bench, cache, tmp_path, words):
    settings = small_settings(cache, tmp_path, *words, "seed=2", "experiment=baseline", "trainer.max_steps=3")
    alone, after = Bench.build(settings), Bench.build(settings, bench)
    for one in (alone, after):
        fit(one, settings)
    np.testing.assert_allclose(after.predict("test").logits, alone.predict("test").logits, rtol=1e-5, atol=1e-5)
    bench.module.seed = bench.module.texts.seed = bench.settings.seed


def test_adapters_are_trained_as_train_does(cache, tmp_path):
    words = [
        "experiment=layered",
        "callbacks.checkpoint=null",
        "trainer.max_steps=5",
        "model.adaptation.dropout=0.1",
        "refit=null",
    ]
    settings = small_settings(cache, tmp_path / "train", *words)
    result = train.run(settings)
    bench = Bench.build(settings)
    fit(bench, settings)
    expected = result.components.model.trainable_state()
    assert any("lora" in name for name in expected)
    for name, value in bench.model.trainable_state().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    np.testing.assert_allclose(bench.predict("test").logits, result.tuned.test.logits, rtol=1e-3, atol=1e-3)
    fit(bench, settings)
    for name, value in bench.model.trainable_state().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_step_is_rounded_where_lightning_rounds_it(cache, tmp_path):
    words = ["experiment=layered", "callbacks.checkpoint=null", "trainer.max_steps=3", "refit=null"]
    rounded = small_settings(cache, tmp_path / "train", *words, "trainer.precision=bf16-mixed")
    result = train.run(rounded)
    bench = Bench.build(rounded)
    exact = bench.predict("test").logits
    fit(bench, small_settings(cache, tmp_path / "exact", *words))
    whole = {name: value.clone() for name, value in bench.model.trainable_state().items()}
    fit(bench, rounded)
    ours, theirs = bench.model.trainable_state(), result.components.model.trainable_state()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert max((ours[name] - whole[name]).abs().max() for name in ours) > 1e-4
    # predictions are float32 however a step was rounded
    np.testing.assert_allclose(bench.predict("test").logits, result.tuned.test.logits, rtol=1e-3, atol=1e-3)
    bench.model.load_trainable_state(bench.start)
    np.testing.assert_array_equal(bench.predict("test").logits, exact)


def test_features_of_the_base_serve_another_seed_and_are_rounded_where_asked(cache, tmp_path):
    settings = small_settings(cache, tmp_path, "seed=1")
    bench, exact = (Bench.build(settings, rounded=rounded) for rounded in (True, False))
    other = small_settings(cache, tmp_path, "seed=2")
    alone, after = Bench.build(other), Bench.build(other, exact)
    for split, values in alone.features.items():
        np.testing.assert_allclose(after.features[split], values, rtol=1e-4, atol=1e-4)
        assert after.features[split].dtype == bench.features[split].dtype == torch.float32
    np.testing.assert_allclose(after.predict("val").logits, alone.predict("val").logits, rtol=1e-4, atol=1e-4)
    change = (bench.features["test"] - exact.features["test"]).abs().max() / exact.features["test"].abs().max()
    assert 1e-5 < change < 3e-2


@pytest.mark.parametrize(
    ("word", "key"), [("data.batch_size=8", "data.batch_size"), ("model.image_hidden=24", "model.image_hidden")]
)
def test_a_setting_that_a_bench_does_not_take_up_is_refused(bench, cache, tmp_path, words, word, key):
    with pytest.raises(ValueError, match=key):
        fit(bench, small_settings(cache, tmp_path, *words, word))
