"""Features of a frozen tower: the same numbers as encoding the images, computed once."""

import numpy as np
import pytest
import torch

from siglip_med.commands.train import build
from siglip_med.errors import UserError
from siglip_med.training import features
from tests.models.tiny import write_dual
from tests.runs import small_settings

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
    assert torch.equal(other.data._plain, components.data._plain)


def test_another_augmentation_or_a_changed_file_is_computed_anew(components, towers, cache, tmp_path):
    before = set((cache / "features").iterdir())
    overrides = [*FROZEN, *towers, "features.views=1", "augmentation=light"]
    build(small_settings(cache, tmp_path, *overrides), CPU)
    assert len(set((cache / "features").iterdir()) - before) == 1


def test_a_trained_vision_tower_has_no_features_to_keep(cache, tmp_path, towers):
    settings = small_settings(cache, tmp_path, "model=dual_encoder", "features=cached", *towers)
    with pytest.raises(UserError, match="the vision tower is trained"):
        build(settings, CPU)
