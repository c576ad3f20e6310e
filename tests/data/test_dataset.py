from pathlib import Path

import numpy as np
import pytest
import torch

from siglip_med.core.image_spec import ImageSpec
from siglip_med.data.augmentation import Augmentation, AugmentationPipeline
from siglip_med.data.cache import PixelCache
from siglip_med.data.dataset import Draw, EpochSampler, ImageDataset, ShardSampler, normalize
from siglip_med.data.sampling import Natural, OversampleToMinimum
from siglip_med.data.table import ImageTable, TableRow, build_table
from tests.data.test_cache import LIMIT, write_photographs

SPEC = ImageSpec(24, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))


def tiny_table(root: Path, images: list[str], conditions: int = 3) -> ImageTable:
    """Image i lists condition i modulo C; every fourth lists the next one too, with half the weight."""
    rows = []
    for i, image in enumerate(images):
        weights = {f"c{i % conditions}": 1.0}
        if i % 4 == 0:
            weights[f"c{(i + 1) % conditions}"] = 0.5
        rows.append(TableRow(image=image, weights=weights, source_row=i + 1, case=f"case{i}"))
    return build_table(rows, root=root, source="labels.csv")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    folder = tmp_path_factory.mktemp("images")
    return tiny_table(folder, [path.name for path in write_photographs(folder, 12)])


def dataset_of(table: ImageTable, rows: np.ndarray, augment: AugmentationPipeline | None = None) -> ImageDataset:
    cache = PixelCache(table.root / "cache", SPEC.size, LIMIT)
    records, reasons = cache.add([table.root / image for image in table.frame["image"]])
    assert reasons == {}
    return ImageDataset(table, rows, cache, records, SPEC, augment)


def epoch_sampler(table: ImageTable, seed: int = 5, world_size: int = 1, rank: int = 0) -> EpochSampler:
    dataset = dataset_of(table, np.arange(len(table)))
    primary = table.frame["primary"].to_numpy()
    return EpochSampler(dataset, OversampleToMinimum(7), table.labels, primary, seed, world_size, rank)


def test_normalize_follows_the_definition() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(3, 5, 4, 3), dtype=np.uint8)
    expected = (pixels / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    found = normalize(pixels, SPEC)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    np.testing.assert_allclose(found.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)
    np.testing.assert_array_equal(normalize(pixels[:1], SPEC).numpy(), found[:1].numpy())


def test_a_batch_holds_the_images_labels_and_rows(table: ImageTable) -> None:
    rows = np.array([7, 2, 10, 4])
    dataset = dataset_of(table, rows)
    cache = PixelCache(table.root / "cache", SPEC.size, LIMIT)
    records, _ = cache.add([table.root / image for image in table.frame["image"]])
    batch = dataset.__getitems__([3, 0, 0])
    assert batch.index.tolist() == [4, 7, 7]
    assert batch.index.dtype == torch.int64
    assert batch.labels.dtype == torch.float32
    np.testing.assert_array_equal(batch.labels, table.labels[[4, 7, 7]])
    assert 0.5 in batch.labels
    torch.testing.assert_close(batch.images, normalize(cache.read(records[[4, 7, 7]]), SPEC))
    assert torch.equal(dataset[1].images, dataset.__getitems__([1]).images)
    assert len(dataset) == 4


def test_only_draws_are_augmented(table: ImageTable) -> None:
    rows = np.arange(len(table))
    pipeline = Augmentation(noise=0.2, noise_probability=1).pipeline(SPEC.size)
    plain, augmented = dataset_of(table, rows), dataset_of(table, rows, pipeline)
    reference = plain.__getitems__([1, 2]).images
    assert torch.equal(augmented.__getitems__([1, 2]).images, reference)
    assert torch.equal(plain.__getitems__([Draw(1, 8), Draw(2, 9)]).images, reference)
    first = augmented.__getitems__([Draw(1, 8), Draw(2, 9)])
    again = augmented.__getitems__([Draw(2, 9), Draw(0, 1), Draw(1, 8)])
    assert not torch.equal(first.images, reference)
    torch.testing.assert_close(first.images, again.images[[2, 0]], rtol=0, atol=0)
    assert torch.equal(plain.__getitems__([1, 2]).images, reference)  # the cache itself is not written to


def test_the_order_is_a_function_of_seed_and_epoch(table: ImageTable) -> None:
    sampler = epoch_sampler(table)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    other = epoch_sampler(table)
    other.set_epoch(1)
    assert list(other) == second
    assert list(epoch_sampler(table, seed=6)) != first
    assert len(first) == len(sampler) == len(second)


def test_no_stream_comes_twice(table: ImageTable) -> None:
    sampler = epoch_sampler(table)
    seeds = []
    for epoch in range(30):
        sampler.set_epoch(epoch)
        seeds += [draw.seed for draw in sampler]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0


def test_follows_the_sampler_it_is_given(table: ImageTable) -> None:
    primary = table.frame["primary"].to_numpy()
    for epoch in range(3):
        expected = OversampleToMinimum(7).indices(table.labels, primary, np.random.default_rng((5, epoch, 0)))
        sampler = epoch_sampler(table)
        sampler.set_epoch(epoch)
        assert [draw.position for draw in sampler] == expected.tolist()
        assert len(expected) > len(table)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_an_epoch_like_cards(table: ImageTable, world_size: int) -> None:
    whole = epoch_sampler(table)
    ranks = [epoch_sampler(table, world_size=world_size, rank=rank) for rank in range(world_size)]
    for epoch in (0, 1):
        for sampler in (whole, *ranks):
            sampler.set_epoch(epoch)
        hands = [list(sampler) for sampler in ranks]
        assert {len(hand) for hand in hands} == {len(whole) // world_size} == {len(sampler) for sampler in ranks}
        dealt = [draw for turn in zip(*hands, strict=True) for draw in turn]
        assert dealt == list(whole)[: len(dealt)]


@pytest.mark.parametrize("world_size", [1, 2, 5, 8])
def test_evaluation_shards_repeat_nothing(table: ImageTable, world_size: int) -> None:
    dataset = dataset_of(table, np.arange(len(table)))
    shards = [ShardSampler(dataset, world_size, rank) for rank in range(world_size)]
    assert sorted(position for shard in shards for position in shard) == list(range(12))
    assert [len(list(shard)) for shard in shards] == [len(shard) for shard in shards]


def test_natural_order_has_each_image_once(table: ImageTable) -> None:
    dataset = dataset_of(table, np.arange(len(table)))
    sampler = EpochSampler(dataset, Natural(), table.labels, table.frame["primary"].to_numpy(), 0)
    assert sorted(draw.position for draw in sampler) == list(range(12))
