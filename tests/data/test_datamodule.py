import csv
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from siglip_med.core.errors import UserError
from siglip_med.core.image_spec import ImageSpec
from siglip_med.data import Batch, DataModule
from siglip_med.data.augmentation import Augmentation
from siglip_med.data.images import decode
from siglip_med.data.sampling import Natural, OversampleToMinimum
from siglip_med.data.splitting.split import GroupStratifiedSplitter
from siglip_med.data.table import ImageTable
from tests.data.test_cache import LIMIT, write_photographs
from tests.data.test_dataset import tiny_table
from tests.data.test_images import encode, photograph

SIZE = 24
AUGMENTATION = Augmentation(horizontal_flip=0.5, crop=0.3, rotation=20, rotation_probability=0.5, brightness=0.2,
                            color_probability=1, noise=0.1, noise_probability=1)  # fmt: skip


@dataclass
class Folder:
    """A source of photographs that counts how often it is asked."""

    root: Path
    images: list[str]
    asked: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        self.asked.append("prepare")

    def load(self) -> ImageTable:
        self.asked.append("load")
        return tiny_table(self.root, self.images)


@pytest.fixture
def source(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "images", [path.name for path in write_photographs(tmp_path / "images", 40)])


def make(source: Any, **settings: Any) -> DataModule:
    defaults = {
        "splitter": GroupStratifiedSplitter(), "sampling": Natural(), "cache_dir": str(source.root.parent / "cache"),
        "seed": 3, "augmentation": AUGMENTATION, "batch_size": 5, "eval_batch_size": 4, "num_workers": 0,
        "max_pixels": LIMIT,
    }  # fmt: skip
    return DataModule(source, ImageSpec(SIZE), **(defaults | settings))


def ready(source: Any, **settings: Any) -> DataModule:
    datamodule = make(source, **settings)
    datamodule.prepare_data()
    datamodule.setup("fit")
    return datamodule


def epochs(datamodule: DataModule, count: int) -> list[list[Batch]]:
    """Batches of several epochs of one training loader, as a trainer goes through them."""
    loader = datamodule.train_dataloader()
    result = []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        result.append(list(loader))
    return result


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_attributes_after_setup(source: Folder) -> None:
    datamodule = ready(source)
    assert datamodule.conditions == ("c0", "c1", "c2")
    parts = [datamodule.rows(name) for name in ("train", "val", "test")]
    assert sorted(np.concatenate(parts)) == list(range(40))
    expected = [sum(datamodule.table.labels[row, c] > 0 for row in datamodule.rows("train")) for c in range(3)]
    assert datamodule.train_counts.tolist() == expected
    assert datamodule.bad_images == ()
    assert source.asked.count("prepare") == 1


def test_drawn_counts_are_those_of_an_epoch(source: Folder) -> None:
    plain = ready(source)
    assert plain.drawn_counts().tolist() == plain.train_counts.tolist()
    repeated = ready(source, sampling=OversampleToMinimum(20))
    epoch = torch.cat([batch.labels for batch in epochs(repeated, 1)[0]])
    assert repeated.drawn_counts().tolist() == (epoch > 0).sum(dim=0).tolist()
    assert (repeated.drawn_counts() >= 20).all()
    assert (repeated.train_counts < 20).any()


def test_asking_again_reads_nothing(source: Folder) -> None:
    datamodule = ready(source)
    split, asked = datamodule.split, len(source.asked)
    datamodule.prepare_data()
    datamodule.setup("test")
    assert datamodule.split is split
    assert len(source.asked) == asked


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_full_loader_gives_each_photograph_as_the_processor_would(source: Folder, split: str) -> None:
    datamodule = ready(source)
    batches = list(datamodule.full_loader(split))
    rows = torch.cat([batch.index for batch in batches]).tolist()
    assert rows == datamodule.rows(split).tolist()
    images = torch.cat([batch.images for batch in batches])
    for row, image in zip(rows, images, strict=True):
        pixels = decode((source.root / datamodule.table.frame["image"][row]).read_bytes(), SIZE, LIMIT)
        np.testing.assert_allclose(image.numpy().transpose(1, 2, 0), pixels / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(torch.cat([batch.labels for batch in batches]), datamodule.table.labels[rows])


def test_full_loader_reads_the_chosen_rows_of_its_split_alone(source: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    datamodule = ready(source, num_workers=0)
    train, val = datamodule.rows("train"), datamodule.rows("val")
    read: list[int] = []
    inner = datamodule.cache.read
    monkeypatch.setattr(datamodule.cache, "read", lambda records: read.extend(records.tolist()) or inner(records))
    batches = list(datamodule.full_loader("train", np.concatenate([train[[4, 1]], val])))
    assert torch.cat([batch.index for batch in batches]).tolist() == train[[1, 4]].tolist()
    assert read == datamodule.records[train[[1, 4]]].tolist()


def test_two_workers_and_two_epochs_repeat_no_image_and_can_be_repeated(source: Folder) -> None:
    first = epochs(ready(source, num_workers=2), 2)
    images = torch.cat([batch.images for epoch in first for batch in epoch])
    assert len(images) == 2 * 25
    assert len({image.numpy().tobytes() for image in images}) == len(images)
    again = epochs(ready(source, num_workers=2), 2)
    alone = epochs(ready(source, num_workers=0), 2)
    for epoch in range(2):
        assert same(first[epoch], again[epoch])
        assert same(first[epoch], alone[epoch])
    assert not same(first[0], first[1])
    assert not same(first[0], epochs(ready(source, seed=4, splitter=_AllButTen()), 1)[0])


@dataclass
class _AllButTen:
    def parts(self, table: ImageTable, seed: int) -> np.ndarray:
        return np.array(["train"] * (len(table) - 10) + ["val"] * 5 + ["test"] * 5)


def test_the_seed_alone_changes_order_and_augmentation(source: Folder) -> None:
    one, other = (ready(source, seed=seed, splitter=_AllButTen(), batch_size=30) for seed in (0, 1))
    first, second = epochs(one, 1)[0][0], epochs(other, 1)[0][0]
    assert sorted(first.index.tolist()) == sorted(second.index.tolist())
    assert first.index.tolist() != second.index.tolist()
    common = first.index.tolist()[0]
    assert not torch.equal(first.images[0], second.images[second.index.tolist().index(common)])


class Recorder(pl.LightningModule):
    """Keeps what each epoch was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[int, list[Batch]] = {}
        self.validated: list[int] = []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        self.seen.setdefault(self.current_epoch, []).append(batch)
        return (self.weight * batch.images.mean()).sum()

    def validation_step(self, batch: Batch, _: int) -> None:
        self.validated += batch.index.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    datamodule: DataModule, folder: Path, resume: str | None = None, **settings: Any
) -> tuple[Recorder, pl.Trainer]:
    module = Recorder()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(default_root_dir=folder, enable_checkpointing=False, **quiet, **settings)
    trainer.fit(module, datamodule=datamodule, ckpt_path=resume, weights_only=False)
    return module, trainer


def test_a_trainer_gets_a_new_epoch_each_time_and_the_same_after_a_resume(source: Folder, tmp_path: Path) -> None:
    whole, _ = fit(make(source), tmp_path, max_epochs=3, num_sanity_val_steps=0)
    assert [len(batches) for batches in whole.seen.values()] == [5, 5, 5]
    assert not same(whole.seen[0], whole.seen[1])
    assert not same(whole.seen[1], whole.seen[2])
    expected = epochs(ready(source), 3)
    assert all(same(whole.seen[epoch], expected[epoch]) for epoch in range(3))
    _, trainer = fit(make(source), tmp_path, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    resumed, _ = fit(make(source), tmp_path, resume=str(tmp_path / "one.ckpt"), max_epochs=3)
    assert sorted(resumed.seen) == [1, 2]
    assert all(same(resumed.seen[epoch], whole.seen[epoch]) for epoch in (1, 2))


def test_overfitting_shows_the_same_plain_images(source: Folder, tmp_path: Path) -> None:
    module, _ = fit(make(source), tmp_path, max_epochs=2, overfit_batches=2, num_sanity_val_steps=0)
    assert same(module.seen[0], module.seen[1])
    plain = next(iter(ready(source, eval_batch_size=5).full_loader("train")))
    assert torch.equal(module.seen[0][0].images, plain.images)


class _RankWriter(Recorder):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_fit_end(self) -> None:
        trained = [[row for batch in batches for row in batch.index.tolist()] for batches in self.seen.values()]
        torch.save({"train": trained, "val": self.validated}, self.folder / f"rank{self.global_rank}.pt")


def test_two_ranks_share_the_images(source: Folder, tmp_path: Path) -> None:
    datamodule = make(source, batch_size=4)
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(_RankWriter(tmp_path), datamodule=datamodule)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    reference = ready(source, batch_size=8)
    for epoch, batches in enumerate(epochs(reference, 2)):
        expected = [row for batch in batches for row in batch.index.tolist()]
        hands = [rank["train"][epoch] for rank in ranks]
        assert [row for turn in zip(*hands, strict=True) for row in turn] == expected
    assert sorted(ranks[0]["val"] + ranks[1]["val"]) == sorted(2 * reference.rows("val").tolist())


DIRTY = {
    "missing.jpg": None,
    "empty.jpg": b"",
    "cut.jpg": encode(photograph(), "JPEG")[:700],
    "text.jpg": b"not a picture at all",
    "huge.png": encode(photograph(1001, 1000), "PNG"),
    "pixel.png": encode(photograph(1, 1), "PNG"),
}


@pytest.fixture
def dirty(source: Folder) -> Folder:
    for name, data in DIRTY.items():
        if data is not None:
            (source.root / name).write_bytes(data)
    source.images[4:4] = DIRTY
    return source


def test_a_bad_image_stops_before_training_and_is_named(dirty: Folder) -> None:
    datamodule = make(dirty)
    with pytest.raises(UserError) as caught:
        datamodule.prepare_data()
    message = str(caught.value)
    listed = dirty.root.parent / "cache" / "bad_images.csv"
    assert f"{dirty.root / 'missing.jpg'} (row 5 of labels.csv) does not exist, and 5 more" in message
    assert str(listed) in message
    assert "on_bad_image=skip" in message
    assert "\n" not in message
    with listed.open() as file:
        assert [(row["row"], row["image"]) for row in csv.DictReader(file)] == [
            (str(5 + i), name) for i, name in enumerate(DIRTY)
        ]


@pytest.mark.parametrize("name", DIRTY)
def test_each_kind_of_bad_image_is_named_with_its_row(source: Folder, name: str) -> None:
    if (data := DIRTY[name]) is not None:
        (source.root / name).write_bytes(data)
    source.images.append(name)
    with pytest.raises(UserError, match=rf"{name} \(row 41 of labels.csv\) (is|has|does) "):
        make(source).prepare_data()


def test_skipped_images_are_left_out_and_listed(dirty: Folder, tmp_path: Path) -> None:
    datamodule = ready(dirty, on_bad_image="skip")
    assert [(bad.row, bad.image) for bad in datamodule.bad_images] == [(5 + i, name) for i, name in enumerate(DIRTY)]
    assert len(datamodule.table) == 40
    assert not set(DIRTY) & set(datamodule.table.frame["image"])
    assert datamodule.table.left_out[-1].count == 6
    for batch in datamodule.full_loader("test"):
        for row, image in zip(batch.index.tolist(), batch.images, strict=True):
            pixels = decode((dirty.root / datamodule.table.frame["image"][row]).read_bytes(), SIZE, LIMIT)
            np.testing.assert_allclose(image.numpy().transpose(1, 2, 0), pixels / 127.5 - 1, atol=1e-6)
    datamodule.save_bad_images(tmp_path / "run" / "bad_images.csv")
    with (tmp_path / "run" / "bad_images.csv").open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == list(DIRTY)


def test_a_link_of_the_table_that_leaves_the_root(source: Folder) -> None:
    shutil.copy(source.root / source.images[0], source.root.parent / "outside.png")
    datamodule = make(source, on_bad_image="skip")
    table = source.load()
    table.frame.loc[2, "image"] = "../outside.png"
    source.load = lambda: table  # type: ignore[method-assign]
    datamodule.prepare_data()
    datamodule.setup()
    assert [(bad.row, bad.image) for bad in datamodule.bad_images] == [(3, "../outside.png")]
    assert "outside the image folder" in datamodule.bad_images[0].reason


def test_no_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    source = Folder(tmp_path / "images", ["a.jpg", "b.jpg"])
    with pytest.raises(UserError, match=r"labels\.csv"):
        ready(source, on_bad_image="skip")


def test_a_saved_split_is_taken_as_it_is(source: Folder, tmp_path: Path) -> None:
    first = ready(source, seed=1)
    first.split.save(tmp_path / "split.csv")
    second = ready(source, seed=2, split_file=str(tmp_path / "split.csv"))
    assert second.split.hash == first.split.hash != ready(source, seed=2).split.hash
    np.testing.assert_array_equal(second.rows("train"), first.rows("train"))


def test_too_few_images_for_a_batch(source: Folder) -> None:
    with pytest.raises(UserError, match=r"do not fill one batch of 99"):
        ready(source, batch_size=99).train_dataloader()
    batches = list(ready(source, batch_size=99, drop_last=False).train_dataloader())
    assert [len(batch.index) for batch in batches] == [len(ready(source).rows("train"))]


def test_no_augmentation(source: Folder) -> None:
    datamodule = ready(source, augmentation=None)
    plain = torch.cat([batch.images for batch in datamodule.full_loader("train")])
    by_row = dict(zip(datamodule.rows("train").tolist(), plain, strict=True))
    for batch in datamodule.train_dataloader():
        assert all(
            torch.equal(image, by_row[row]) for row, image in zip(batch.index.tolist(), batch.images, strict=True)
        )
