"""Features of a frozen tower: the same numbers as encoding the images, computed once."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from siglip_med.commands import train
from siglip_med.core.config import instantiate, typed
from siglip_med.core.errors import UserError
from siglip_med.data.look_alikes import whitened
from siglip_med.runs.building import build, build_module
from siglip_med.training import features
from siglip_med.training.feature_store import FeatureStore, keys_of
from tests.models import tiny
from tests.models.tiny import write_dual
from tests.short_runs import compose_config, small_settings


class Killed(BaseException):
    """Stands for the end of a process: nothing of the program may catch it."""


CPU = torch.device("cpu")
FROZEN = ["model=dual_encoder", "model/adaptation=frozen", "features=cached"]


@pytest.fixture(scope="session")
def towers(tmp_path_factory):
    paths = write_dual(tmp_path_factory.mktemp("frozen_towers"))
    return [f"model.{tower}={path}" for tower, path in paths.items()]


@pytest.fixture(scope="session")
def components(cache, tmp_path_factory, towers):
    settings = small_settings(cache, tmp_path_factory.mktemp("frozen"), *FROZEN, *towers, "features.views=2", "seed=1")
    return build(settings, CPU)


def test_a_batch_of_features_encodes_like_the_images_themselves(components):
    plain = components.data._inner
    components.model.eval()
    for features_, images in zip(components.data.full_loader("val"), plain.full_loader("val"), strict=True):
        assert torch.equal(features_.index, images.index)
        assert torch.equal(features_.labels, images.labels)
        with torch.no_grad():
            expected = components.model.encode_images(images.images)
            torch.testing.assert_close(components.model.encode_images(features_.images), expected, atol=1e-5, rtol=1e-4)


def test_training_draws_both_views_and_only_training_images(components):
    seen: dict[int, set[bytes]] = {}
    loader = components.data.train_dataloader()
    for epoch in range(6):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            for row, vector in zip(batch.index.tolist(), batch.images, strict=True):
                seen.setdefault(row, set()).add(vector.numpy().tobytes())
    assert set(seen) <= set(components.data.split.train.tolist())
    views = np.array([len(vectors) for vectors in seen.values()])
    assert views.max() == 2
    assert views.mean() > 1.5


def test_a_second_run_with_another_split_reads_the_features_of_the_first(
    components, towers, cache, tmp_path, monkeypatch
):
    def computed_again(*_):
        raise AssertionError("the features were there")

    monkeypatch.setattr(features, "embed", computed_again)
    settings = small_settings(cache, tmp_path, *FROZEN, *towers, "features.views=2", "seed=2")
    other = build(settings, CPU)
    assert other.data.split.hash != components.data.split.hash
    assert np.array_equal(other.data._plain[0], components.data._plain[0])


@pytest.mark.parametrize("view", [None, 1])
def test_features_that_were_cut_are_gone_on_with_within_a_batch(components, tmp_path, monkeypatch, capsys, view):
    """Bytes that no index names are not relied on, and nothing that it names is computed again."""
    data, model = components.data._inner, components.model
    monkeypatch.setattr(data, "eval_batch_size", 32)
    keys, whole, broken, seen = keys_of(data.contents), store(tmp_path / "whole"), store(tmp_path / "broken"), []
    features.embed(model, data, keys, whole, "all", view)
    loader = data.table_loader

    def cut(rows, view=None):
        seen.append(len(rows))
        batches = list(loader(rows, view))
        yield from batches[:4] if len(seen) == 1 else batches
        if len(seen) == 1:
            raise Killed

    monkeypatch.setattr(data, "table_loader", cut)
    with pytest.raises(Killed):
        features.embed(model, data, keys, broken, "cut", view)
    for torn in (broken.values_file, broken.folder / "index.bin"):
        with torn.open("ab") as file:
            file.write(b"torn")
    features.embed(model, data, keys, broken, "again", view)
    assert seen == [260, 260 - 4 * 32]
    assert "features: 128 of 260 images are kept already" in capsys.readouterr().err.replace("\n", " ")
    for name in ("values.bin", "index.bin"):
        assert (broken.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_copied_folder_another_order_and_a_part_of_a_table_are_read_and_not_computed(
    components, towers, cache, tmp_path, monkeypatch
):
    table = components.data.table
    shutil.copytree(table.root, tmp_path / "moved" / "elsewhere")
    rows = np.random.default_rng(0).permutation(len(table))[:200]
    names = np.array(table.conditions)[table.frame["primary"]]
    lines = [f'{table.frame["image"][row]},"{names[row]}"' for row in rows]
    (tmp_path / "moved" / "elsewhere" / "labels.csv").write_text("\n".join(["image,condition", *lines]))

    def computed_again(*_):
        raise AssertionError("the features were there")

    monkeypatch.setattr(features, "embed", computed_again)
    own = ["data=csv", f"data.source.root={tmp_path / 'moved' / 'elsewhere'}", "data.num_workers=0"]
    places = [f"paths.cache_dir={cache}", f"paths.output_dir={tmp_path}"]
    settings = typed(compose_config(*FROZEN, *towers, *own, *places, "seed=1"), train.Settings)
    again = build(settings, CPU).data
    assert np.array_equal(again.kept, components.data.kept[rows])


def test_a_damaged_record_is_computed_again_alone_and_said(components, tmp_path, capsys):
    data, model, kept = components.data._inner, components.model, store(tmp_path / "kept")
    keys = keys_of(data.contents)
    features.embed(model, data, keys, kept, "all")
    before, record = kept.values()[kept.find(keys)].copy(), 7 * before_bytes(kept)
    with kept.values_file.open("r+b") as file:
        file.seek(record + 2)
        file.write(b"\xff\xff")
    assert (kept.find(keys) < 0).sum() == 1
    assert "1 of 260 records are damaged: computing them again" in capsys.readouterr().err.replace("\n", " ")
    features.embed(model, data, keys, kept, "again")
    torch.testing.assert_close(kept.values()[kept.find(keys)], before, atol=1e-5, rtol=1e-4)


def store(folder):
    return FeatureStore(folder, np.dtype("float32"))


def before_bytes(kept):
    return kept.values().strides[0]


@pytest.mark.parametrize("file", ["values.bin", "index.bin", "shape.json"])
@pytest.mark.parametrize("rest", [b"", b"[", b"no features at all"])
def test_a_store_that_is_something_else_is_begun_anew(components, tmp_path, file, rest):
    data, model, kept = components.data._inner, components.model, store(tmp_path / "new")
    kept.folder.mkdir()
    (kept.folder / file).write_bytes(rest)
    keys = keys_of(data.contents)
    features.embed(model, data, keys, kept, "anew")
    assert np.array_equal(kept.values()[kept.find(keys)], components.data.kept)


def test_another_augmentation_or_a_changed_file_is_computed_anew(components, towers, cache, tmp_path):
    before = set((cache / "features").iterdir())
    overrides = [*FROZEN, *towers, "features.views=1", "augmentation=light"]
    build(small_settings(cache, tmp_path, *overrides), CPU)
    assert len(set((cache / "features").iterdir()) - before) == 1


def test_views_that_would_all_be_the_same_are_refused(towers, cache, tmp_path):
    overrides = [*FROZEN, *towers, "features.views=2", "augmentation=none"]
    with pytest.raises(UserError, match=r"features\.views=2: nothing is augmented, so all views would be the same"):
        build(small_settings(cache, tmp_path, *overrides), CPU)


@pytest.mark.parametrize(("words", "said"), [(["augmentation=light"], True), (["augmentation=none"], False),
                                             (["augmentation=light", "features.views=1"], False)])  # fmt: skip
def test_an_augmentation_that_is_left_out_is_said(words, said, towers, cache, tmp_path, caplog):
    with caplog.at_level("INFO", logger="siglip_med"):
        build(small_settings(cache, tmp_path, *FROZEN, *towers, *words), CPU)
    assert ("features.views=0 leaves the augmentation out" in caplog.text) == said


def test_a_trained_vision_tower_has_no_features_to_keep(cache, tmp_path, towers):
    settings = small_settings(cache, tmp_path, "model=dual_encoder", "features=cached", *towers)
    with pytest.raises(UserError, match="the vision tower is trained"):
        build(settings, CPU)


@pytest.fixture(scope="session")
def deep_towers(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "LAYERS", 2)
        for settings in (tiny._TEXT, tiny._VISION):
            patch.setitem(settings, "num_hidden_layers", 2)
        paths = write_dual(tmp_path_factory.mktemp("deep_towers"))
    chosen = [f"model.adaptation.{one}" for one in ("rank=2", "dropout=0", "first_block={vision: 1, text: 1}")]
    return ["model=dual_encoder", "augmentation=none", *chosen, *(f"model.{key}={path}" for key, path in paths.items())]


def test_adapters_on_kept_states_end_at_the_weights_of_adapters_on_pixels(cache, tmp_path, deep_towers, capfd):
    ends = []
    for number, features_node in enumerate(([], ["features=cached", "features.dtype=float32"])):
        overrides = [*deep_towers, *features_node, "trainer.max_steps=4", "model.dropout=0"]
        settings = small_settings(cache, tmp_path / str(number), *overrides)
        parts = build(settings, CPU)
        module = build_module(settings, parts, instantiate(settings.loss), instantiate(settings.optimizer))
        trainer = instantiate(settings.trainer, callbacks=settings.callbacks, logger=settings.logger)
        trainer.fit(module, datamodule=parts.data)
        ends.append(parts.model.trainable_state())
    assert any(".lora_" in name for name in ends[0])
    for name, weights in ends[0].items():
        torch.testing.assert_close(
            ends[1][name], weights, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: name + text
        )
    assert "states after block 1: 260 images x 1 x" in capfd.readouterr().err


def test_half_precision_states_change_an_embedding_by_less_than_a_thousandth(cache, tmp_path, deep_towers):
    parts = build(small_settings(cache, tmp_path, *deep_towers, "features=cached"), CPU)
    assert parts.data._plain[0].values.dtype == np.float16
    assert isinstance(parts.data._plain[0].values, np.memmap)
    parts.model.eval()
    kept, pixels = next(iter(parts.data.full_loader("val"))), next(iter(parts.data._inner.full_loader("val")))
    with torch.no_grad():
        a, b = parts.model.encode_images(kept.images), parts.model.encode_images(pixels.images)
    torch.testing.assert_close(a, b, atol=2e-3 * b.abs().max().item(), rtol=0)


def test_states_that_would_not_fit_are_refused_before_they_are_computed(cache, tmp_path, deep_towers):
    views = ["augmentation=light", "features=cached", "features.views=3", "features.max_gigabytes=1e-5"]
    overrides = [*deep_towers, *views]
    with pytest.raises(UserError, match=r"260 images x 4 .*x .* = 0\.\d+ GB .*allowed are 1e-05 GB"):
        build(small_settings(cache, tmp_path, *overrides), CPU)


def test_states_that_the_disk_does_not_hold_are_refused_before_they_are_computed(
    cache, tmp_path, deep_towers, monkeypatch
):
    build(small_settings(cache, tmp_path, *deep_towers), CPU)  # the pixels are on disk already
    full = SimpleNamespace(total=1, used=1, free=1000)
    monkeypatch.setattr("siglip_med.training.features.shutil.disk_usage", lambda folder: full)
    words = [*deep_towers, "augmentation=light", "features=cached", "features.views=2", "features.max_gigabytes=1000"]
    with pytest.raises(UserError, match=r"allowed are 1000 GB, free are 0\.0"):
        build(small_settings(cache, tmp_path, *words), CPU)


def test_look_alikes_become_one_case_before_the_split(components, towers, cache, tmp_path):
    kept = whitened(components.data.kept)
    cases = components.data.table.cases
    cosines = np.where(cases[:, None] < cases[None, :], kept @ kept.T, -1)
    threshold = float(np.unique(cosines)[-2:].mean())  # one pair: a group of two cases is never cut
    asked = (f"data.look_alikes_threshold={threshold}", "data.look_alikes=join")
    data = build(small_settings(cache, tmp_path, *FROZEN, *towers, "features.views=2", *asked), CPU).data
    pairs = np.argwhere(cosines >= threshold)
    assert (data.split.parts[pairs[:, 0]] == data.split.parts[pairs[:, 1]]).all()
    assert f"{len(pairs)} pairs of look-alikes" in data.table.notes[-1]
    assert len(np.unique(data.table.cases)) < len(np.unique(cases))
    assert data.train_counts.tolist() == (data.table.labels[data.split.train] > 0).sum(axis=0).tolist()


def test_without_kept_features_look_alikes_cannot_be_joined(cache, tmp_path):
    with pytest.raises(
        UserError, match=r"look_alikes=join: no features .* are kept; .* siglip-med-check look_alikes=true"
    ):
        build(small_settings(cache, tmp_path, "data.look_alikes=join"), CPU)


def test_the_precision_of_a_frozen_tower_follows_the_machine_unless_it_is_said(monkeypatch):
    cpu = torch.device("cpu")
    assert [features.in_bfloat16(one, cpu) for one in ("auto", "float32", "bfloat16")] == [False, False, True]
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert [features.in_bfloat16(one, cpu) for one in ("auto", "float32", "bfloat16")] == [True, False, True]
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")  # a PyTorch that does not say
    assert not features.in_bfloat16("auto", cpu)


def test_features_in_bfloat16_are_near_the_exact_ones_said_and_kept_apart(components, caplog, tmp_path):
    inner, model = components.data._inner, components.model
    exact = features.FeatureDataModule(inner, model, str(tmp_path)).kept
    with caplog.at_level("INFO"):
        near = features.FeatureDataModule(inner, model, str(tmp_path), precision="bfloat16").kept
    assert "computes in bfloat16" in caplog.text
    cosine = torch.nn.functional.cosine_similarity(torch.from_numpy(exact), torch.from_numpy(near))
    assert 0.99 < cosine.min() < 1.0
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_what_another_process_computed_meanwhile_is_not_computed_again(components, tmp_path, monkeypatch):
    """Two start at once; the second waits, and finds that nothing is missing."""
    inner, model = components.data._inner, components.model
    first = features.FeatureDataModule(inner, model, str(tmp_path)).kept
    monkeypatch.setattr(model, "image_features", lambda *_: pytest.fail("computed again"))
    (folder,) = (tmp_path / "features").iterdir()
    store = FeatureStore(folder, np.dtype("float32"))
    features.embed(model, inner, keys_of(inner.contents), store, "embedding")
    np.testing.assert_array_equal(store.values()[store.find(keys_of(inner.contents))], first)
