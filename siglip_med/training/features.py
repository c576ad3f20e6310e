"""A frozen vision tower sees each image once: its features are computed, kept, and trained on in seconds."""

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from pydantic import Field, PositiveFloat
from rich.console import Console
from torch.utils.data import DataLoader, DistributedSampler

from siglip_med.core.errors import UserError
from siglip_med.core.files import Mapped, named
from siglip_med.core.progress import tracked
from siglip_med.core.seals import check_sealed, seal
from siglip_med.data.augmentation import Augmentation
from siglip_med.data.batch import Batch
from siglip_med.data.datamodule import DataModule
from siglip_med.data.dataset import Draws, EpochSampler, ShardSampler, SplitDataset, passthrough_collate
from siglip_med.data.joining import HOW_ELSE
from siglip_med.data.labeled import LabeledData
from siglip_med.data.loader import TimedLoader
from siglip_med.data.table import ImageTable
from siglip_med.models import TwoTower

logger = logging.getLogger(__name__)

Views = Annotated[int, Field(ge=0, le=1000)]


class FeatureDataset(SplitDataset):
    """Features of one split in several views; a draw's random seed chooses the view."""

    def __init__(
        self, views: Sequence[np.ndarray], table: ImageTable, rows: np.ndarray, mapped: Sequence[Mapped] = ()
    ) -> None:
        """Takes features ``[N, F]`` or states ``[N, L, D]`` of the whole table a view, and the split's ``[n]`` rows."""
        self.rows, self._mapped = rows, mapped
        self._views = views
        self._labels = torch.from_numpy(table.labels)

    def __getitem__(self, item: int | Draws) -> Batch:
        """A batch of B: features ``[B, F]`` or states ``[B, L, D]``, labels ``[B, C]``, table rows ``[B]``."""
        draws = item if isinstance(item, Draws) else Draws(np.array([item]), np.zeros(1, dtype=np.int64))
        rows = self.rows[draws.positions].astype(np.int64)
        for file in self._mapped:
            file.check()
        index = torch.from_numpy(rows)
        return Batch(torch.from_numpy(self._lookup(rows, draws.seeds)), self._labels[index], index)

    def _lookup(self, rows: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        if len(self._views) == 1:
            return self._views[0][rows].astype(np.float32, copy=False)
        chosen = seeds % len(self._views)
        found = np.empty((len(rows), *self._views[0].shape[1:]), dtype=np.float32)
        for view in np.unique(chosen):
            found[chosen == view] = self._views[view][rows[chosen == view]]
        return found


class BatchSampler(DistributedSampler[Draws]):
    """The draws of another sampler, a whole batch at a time: a batch of features is one lookup, not B.

    A DistributedSampler, so that Lightning does not wrap it in another one.
    """

    def __init__(self, sampler: EpochSampler | ShardSampler, batch_size: int, drop_last: bool = False) -> None:
        """Deals out what ``sampler`` draws for this rank."""
        super().__init__(sampler.dataset, num_replicas=sampler.num_replicas, rank=sampler.rank, drop_last=drop_last)
        self._sampler = sampler
        self._batch_size = batch_size

    def __len__(self) -> int:
        whole, rest = divmod(len(self._sampler), self._batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Draws]:
        draws = self._sampler.draws()
        # a run that is resumed inside an epoch has fewer left than `len`
        left = len(draws[0])
        whole = left - left % self._batch_size if self.drop_last else left
        starts = range(0, whole, self._batch_size)
        return (Draws(*(part[start : start + self._batch_size] for part in draws)) for start in starts)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch."""
        self._sampler.set_epoch(epoch)


class FeatureDataModule(LabeledData):
    """Batches of features in place of images; otherwise the data module that it is made from.

    Of a vision tower that is frozen whole, the pooled features are kept; of one whose first blocks are frozen
    (``model.adaptation.first_block``), the states that these give, for the later blocks to start from.
    """

    def __init__(
        self,
        datamodule: DataModule,
        model: TwoTower,
        cache_dir: str,
        views: Views = 0,
        dtype: Literal["float16", "float32"] = "float16",
        max_gigabytes: PositiveFloat = 20.0,
    ) -> None:
        """Computes the features of the whole table, or reads those of an earlier run with the same files and weights.

        Args:
            datamodule: ready data.
            model: its vision backbone must be frozen, whole or in its first blocks.
            cache_dir: where features are kept; any split of the same table shares them.
            views: augmented views of each image to train on; 0: the image as it is.
            dtype: of kept states (an image has hundreds of vectors); pooled features are float32 in any case.
            max_gigabytes: states that would take more than this on disk are refused.

        Raises:
            UserError: the whole vision backbone is trained, its states would take too much room, or there are views and
                nothing that would tell one from another.
        """
        super().__init__()
        self._blocks = model.frozen_blocks("vision")
        if not (model.vision_is_frozen or self._blocks):
            raise UserError(
                "features: the vision tower is trained, so its features change each step; set model/adaptation=frozen, "
                "model.adaptation.towers=text, model.adaptation.first_block=n, or features=null"
            )
        augmented = datamodule.augmentation is not None and vars(datamodule.augmentation) != vars(Augmentation())
        if views and not augmented:
            raise UserError(
                f"features.views={views}: nothing is augmented, so all views would be the same; set features.views=0, "
                "or augmentation=default"
            )
        if augmented and not views:
            logger.info("features: each image as it is, in every epoch: features.views=0 leaves the augmentation out")
        self._inner = datamodule
        self._dtype = dtype if self._blocks else "float32"
        self._limit = max_gigabytes
        self.table, self.sampling, self.seed = datamodule.table, datamodule.sampling, datamodule.seed
        folder = Path(cache_dir) / "features"
        keys = {view: folder / f"{self._key(model, view)}.npy" for view in (None, *range(views))}
        self._compute(model, keys)
        self._mapped = [Mapped(path) for path in keys.values()] if self._blocks else []
        kept = [np.load(path, mmap_mode="r" if self._blocks else None) for path in keys.values()]
        self._plain, self._views = kept[:1], kept[1:] or kept[:1]
        self.kept = None if self._blocks else kept[0]
        if datamodule.look_alikes == "join":
            if self.kept is None:
                raise UserError(f"data.look_alikes=join: a tower with trained blocks keeps no features; {HOW_ELSE}")
            datamodule.join(self.kept)
        self.table, self.split = datamodule.table, datamodule.split
        self.conditions, self.train_counts = datamodule.conditions, datamodule.train_counts
        self.look_alikes, self.look_alikes_threshold = datamodule.look_alikes, datamodule.look_alikes_threshold

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled features, a random view of each image; this rank's share.

        Raises:
            UserError: as in `DataModule.train_dataloader`.
        """
        inner = self._inner
        dataset = FeatureDataset(self._views, self.table, self.split.train, self._mapped)
        sampler = self.training_sampler(dataset, inner.batch_size, inner.drop_last)
        return self._loader(dataset, sampler, inner.batch_size, inner.drop_last)

    def val_dataloader(self) -> DataLoader[Batch]:
        """This rank's share of the validation features."""
        dataset = FeatureDataset(self._plain, self.table, self.split.val, self._mapped)
        return self._loader(dataset, ShardSampler(dataset, *self.world_size_and_rank()), self._inner.eval_batch_size)

    def full_loader(self, split: str, chosen: np.ndarray | None = None) -> DataLoader[Batch]:
        """A whole split, or its chosen rows, without augmentation, in the order of `rows`."""
        dataset = FeatureDataset(self._plain, self.table, self.chosen_rows(split, chosen), self._mapped)
        return self._loader(dataset, ShardSampler(dataset), self._inner.eval_batch_size)

    def _loader(
        self,
        dataset: FeatureDataset,
        sampler: EpochSampler | ShardSampler,
        size: int,
        drop_last: bool = False,
    ) -> DataLoader[Batch]:
        batches = BatchSampler(sampler, size, drop_last)
        return TimedLoader(
            dataset, batch_size=None, sampler=batches, collate_fn=passthrough_collate, pin_memory=self.pins_memory
        )

    def save_bad_images(self, path: Path) -> None:
        """As of the data module that this is made from."""
        self._inner.save_bad_images(path)

    def _compute(self, model: TwoTower, paths: dict[int | None, Path]) -> None:
        """Computes what is not there, or is not as it was written."""
        for path in paths.values():
            if path.is_file() and (wrong := check_sealed(path)) is not None:
                _say(f"{path} {wrong}: computing it again")
                path.unlink()
        missing = {view: path for view, path in paths.items() if not path.is_file()}
        if missing and self._blocks:
            self._announce(model, list(missing.values()))
        for view, path in missing.items():
            what = f"states after block {self._blocks}" if self._blocks else "embedding the images"
            name = what if view is None else f"{what}, view {view}"
            embed(model, self._inner, view, path, np.dtype(self._dtype), name)

    def _announce(self, model: TwoTower, paths: Sequence[Path]) -> None:
        """Says what the states will take on disk, before anything is computed."""
        batch = next(iter(self._inner.table_loader(None)))
        images = batch.images[:2].to(model.logit_scale.device)
        states = model.image_states(images)
        each = states[0].numel() * np.dtype(self._dtype).itemsize
        total = each * len(self.table) * len(paths) / 1e9
        size = f"{len(self.table):,} images x {len(paths)} x {each / 1e3:,.0f} kB = {total:.2f} GB"
        folder = paths[0].parent
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free / 1e9
        if total > self._limit or total > free:
            raise UserError(
                f"features: the states after block {self._blocks} would take {size} in {folder} (allowed are "
                f"{self._limit:g} GB, free are {free:.1f}); raise features.max_gigabytes, or lower features.views"
            )
        _say(f"features: states after block {self._blocks}: {size} in {folder}")

    def _key(self, model: TwoTower, view: int | None) -> str:
        """Hash of everything that the features depend on: files, order, weights, size, augmentation."""
        images = self.table.frame["image"]
        stats = [(self.table.root / image).stat() for image in images]
        files = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in zip(images, stats, strict=True)]
        drawn = "" if view is None else f"{view} {vars(self._inner.augmentation) if self._inner.augmentation else None}"
        kept = [f"states after block {self._blocks}, {self._dtype}"] if self._blocks else []
        parts = (model.base.fingerprint, repr(model.image_spec), str(self.table.root.resolve()), *files, drawn, *kept)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@torch.no_grad()
def embed(model: TwoTower, data: DataModule, view: int | None, path: Path, dtype: np.dtype, description: str) -> None:
    """Writes ``[N, F]`` features, or ``[N, L, D]`` states, of the table's images: a whole file, or a hidden part.

    What a process that was killed has written stays, but for its last batch, and is gone on with. A second process that
    wants the same file waits for the first.

    Args:
        model: whose vision tower is frozen, whole or in its first blocks.
        data: of the table.
        view: an augmented one; None for the images as they are.
        path: of the file.
        dtype: of the values.
        description: of the work, for the screen.

    Raises:
        UserError: a value is too large for ``dtype``, or the file cannot be written.
    """
    training = model.training
    model.eval()
    device = model.logit_scale.device
    read = model.image_states if model.frozen_blocks("vision") else model.image_features
    partial = path.with_name(f".{path.name}.part")
    try:
        with named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(Path(f"{partial}.lock")):
                if path.is_file():
                    return
                done = _whole_batches(partial, data.eval_batch_size)
                if done:
                    _say(
                        f"features: {done:,} of {len(data.table):,} images were embedded before, by a run that was cut"
                    )
                with partial.open("r+b" if done else "wb") as file:
                    file.seek(0, os.SEEK_END)
                    for batch in tracked(data.table_loader(view, done), description):
                        values = read(batch.images.to(device)).float().cpu().numpy().astype(dtype)
                        if not np.isfinite(values).all():
                            raise UserError(
                                f"features: a state is beyond the range of {dtype}: set features.dtype=float32"
                            )
                        if file.tell() == 0:
                            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
                            shape = (len(data.table), *values.shape[1:])
                            np.lib.format.write_array_header_1_0(file, header | {"shape": shape})
                        file.write(values.tobytes())
                        file.flush()
                        os.fsync(file.fileno())  # what lies before the last batch can be relied on
                seal(partial, path)
    except UserError:
        partial.unlink(missing_ok=True)
        raise
    finally:
        model.train(training)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Waits until no other process computes the same features, and says so; a killed one's lock is gone with it."""
    lock = FileLock(place)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say("features: another process computes them; waiting for it")
        lock.acquire()
    try:
        yield
        place.unlink(missing_ok=True)  # whoever waited for it finds the features
    finally:
        lock.release()


def _whole_batches(partial: Path, size: int) -> int:
    """How many images a file that was cut has whole and on the disk; what lies behind them is taken off."""
    try:
        with partial.open("r+b") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            header, each = file.tell(), math.prod(shape[1:]) * dtype.itemsize
            rows = min((partial.stat().st_size - header) // each, shape[0])
            done = max(0, (rows - 1) // size) * size
            file.truncate(header + done * each)
            return done
    except (FileNotFoundError, ValueError):
        return 0


def _say(text: str) -> None:
    Console(stderr=True).print(text, soft_wrap=True, highlight=False, markup=False)
