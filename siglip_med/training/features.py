"""A frozen vision tower sees each image once: its features are computed, kept, and trained on in seconds."""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch.utils.data import DataLoader, DistributedSampler

from siglip_med.core.errors import UserError
from siglip_med.core.files import Mapped
from siglip_med.core.outside import say
from siglip_med.core.progress import tracked
from siglip_med.data.augmentation import Augmentation
from siglip_med.data.batch import Batch
from siglip_med.data.datamodule import DataModule
from siglip_med.data.dataset import Draws, EpochSampler, ShardSampler, SplitDataset, passthrough_collate
from siglip_med.data.joining import HOW_ELSE
from siglip_med.data.labeled import LabeledData
from siglip_med.data.loader import TimedLoader
from siglip_med.data.table import ImageTable
from siglip_med.models import TwoTower
from siglip_med.training.feature_store import FeatureStore, keys_of

logger = logging.getLogger(__name__)

Views = Annotated[int, Field(ge=0, le=1000)]


class FeatureDataset(SplitDataset):
    """Features of one split in several views; a draw's random seed chooses the view."""

    def __init__(
        self, views: Sequence["Rows"], table: ImageTable, rows: np.ndarray, mapped: Sequence[Mapped] = ()
    ) -> None:
        """Takes features ``[N, F]`` or states ``[N, L, D]`` of the whole table, by view, and the split's rows."""
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


Precision = Literal["auto", "float32", "bfloat16"]
_ON_A_CPU = 16


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
        precision: Precision = "auto",
    ) -> None:
        """Computes the features of the whole table, but for photographs that a run with the same base has computed.

        Args:
            datamodule: ready data.
            model: its vision backbone must be frozen, whole or in its first blocks.
            cache_dir: where features are kept, by each photograph's content: any table with it shares them.
            views: augmented views of each image to train on; 0: the image as it is.
            dtype: of kept states (an image has hundreds of vectors); pooled features are float32 in any case.
            max_gigabytes: states that would take more than this on disk are refused.
            precision: of the forward pass; ``auto``: bfloat16 on a GPU or CPU that computes it natively, else float32.

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
        self._half = in_bfloat16(precision, model.logit_scale.device)
        self.table, self.sampling, self.seed = datamodule.table, datamodule.sampling, datamodule.seed
        folder = Path(cache_dir) / "features"
        stores = [FeatureStore(folder / self._key(model, v), np.dtype(self._dtype)) for v in (None, *range(views))]
        records = self._compute(model, dict(zip((None, *range(views)), stores, strict=True)))
        kept: list[Rows] = [Placed(store.values(), of) for store, of in zip(stores, records, strict=True)]
        if self._blocks:
            self._mapped = [Mapped(store.values_file) for store in stores]
        else:
            self._mapped, kept = [], [one[np.arange(len(self.table))] for one in kept]
        self._plain, self._views = kept[:1], kept[1:] or kept[:1]
        self.kept = None if self._blocks else np.asarray(kept[0])
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
        dataset = FeatureDataset(self._plain, self.table, self.rows(split, chosen), self._mapped)
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

    def _compute(self, model: TwoTower, stores: Mapping[int | None, FeatureStore]) -> list[np.ndarray]:
        """Computes what a store has not, or has not as it was written; ``[N]`` records of the table's rows in each."""
        if self._half:
            logger.info(
                "features: the frozen tower computes in bfloat16; features.precision=float32 is slower and exact"
            )
        keys = keys_of(self._inner.contents)
        records = {view: store.find(keys) for view, store in stores.items()}
        missing = sum(int((found < 0).sum()) for found in records.values())
        if missing and self._blocks:
            self._announce(model, stores, missing)
        for view, store in stores.items():
            if (records[view] < 0).any():  # a store that has all is read, and its sums are checked, once
                what = f"states after block {self._blocks}" if self._blocks else "embedding the images"
                what = what if view is None else f"{what}, view {view}"
                with torch.autocast(model.logit_scale.device.type, torch.bfloat16, enabled=self._half):
                    embed(model, self._inner, keys, store, what, view)
                records[view] = store.find(keys)
        return list(records.values())

    def _announce(self, model: TwoTower, stores: Mapping[int | None, FeatureStore], missing: int) -> None:
        """Says what the states will take on disk, before anything is computed."""
        batch = next(iter(self._inner.table_loader(np.arange(min(2, len(self.table))))))
        states = model.image_states(batch.images.to(model.logit_scale.device))
        each = states[0].numel() * np.dtype(self._dtype).itemsize
        total = each * missing / 1e9
        part = f" ({missing:,} are missing)" if missing < len(self.table) * len(stores) else ""
        size = f"{len(self.table):,} images x {len(stores)}{part} x {each / 1e3:,.0f} kB = {total:.2f} GB"
        folder = next(iter(stores.values())).folder.parent
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free / 1e9
        if total > self._limit or total > free:
            raise UserError(
                f"features: the states after block {self._blocks} would take {size} in {folder} (allowed are "
                f"{self._limit:g} GB, free are {free:.1f}); raise features.max_gigabytes, or lower features.views"
            )
        say(f"features: states after block {self._blocks}: {size} in {folder}")

    def _key(self, model: TwoTower, view: int | None) -> str:
        """Hash of everything but the photograph that its features depend on: weights, size, augmentation."""
        drawn = "" if view is None else f"{view} {vars(self._inner.augmentation) if self._inner.augmentation else None}"
        kept = [f"states after block {self._blocks}, {self._dtype}"] if self._blocks else []
        half = ["bfloat16"] if self._half else []
        parts = (model.base.fingerprint, repr(model.image_spec), drawn, *kept, *half)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def kept_where_frozen(
    datamodule: DataModule,
    model: TwoTower,
    cache_dir: str,
    views: Views = 0,
    dtype: Literal["float16", "float32"] = "float16",
    max_gigabytes: PositiveFloat = 20.0,
    precision: Precision = "auto",
) -> LabeledData:
    """A `FeatureDataModule` of these arguments where the vision tower is frozen whole; else the images themselves."""
    if not model.vision_is_frozen:
        return datamodule
    logger.info("features=auto: the vision tower is frozen, so each image is embedded once; features=null never keeps")
    return FeatureDataModule(datamodule, model, cache_dir, views, dtype, max_gigabytes, precision)


def in_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether a frozen tower computes in bfloat16; ``auto``: where the device has instructions for it."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "cpu" and any(ask() for ask in known if ask is not None)


@dataclass(frozen=True)
class Placed:
    """Records of a store as rows of a table: ``[n]`` rows give the values of their records."""

    values: np.ndarray
    records: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array of all rows."""
        return (len(self.records), *self.values.shape[1:])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.values[self.records[rows]])


Rows = np.ndarray | Placed
"""Features by row of the table: in memory, or on disk."""


@torch.no_grad()
def embed(
    model: TwoTower,
    data: DataModule,
    keys: np.ndarray,
    store: FeatureStore,
    description: str,
    view: int | None = None,
) -> None:
    """Adds to a store what it lacks of a table's images: features ``[F]``, or states ``[L, D]``.

    What a process that was killed has written stays, and is gone on with. A second process that computes the same waits
    for the first.

    Args:
        model: whose vision tower is frozen, whole or in its first blocks.
        data: of the table.
        keys: ``[N]`` of its images.
        store: of this tower and view.
        description: of the work, for the screen.
        view: an augmented one; None for the images as they are.

    Raises:
        UserError: a value is too large for the store's type, or the store cannot be written.
    """
    training = model.training
    model.eval()
    device = model.logit_scale.device
    read = model.image_states if model.frozen_blocks("vision") else model.image_features
    # a CPU's caches hold few images: 128 at once take 1.5 times as long as 16 (benchmarks/extraction.py)
    at_once = _ON_A_CPU if device.type == "cpu" else data.eval_batch_size
    try:
        with store.writing() as writer:
            absent = np.flatnonzero(store.find(keys) < 0)
            missing = np.sort(
                np.array(list({keys[row].tobytes(): row for row in absent[::-1]}.values()), dtype=np.int64)
            )
            if len(missing) < len(keys):
                say(f"features: {len(keys) - len(absent):,} of {len(keys):,} images are kept already")
            start = 0
            for batch in tracked(data.table_loader(missing, view), description):
                parts = batch.images.to(device).split(at_once)
                values = torch.cat([read(part).float().cpu() for part in parts]).numpy().astype(store.dtype)
                if not np.isfinite(values).all():
                    raise UserError(
                        f"features: a state is beyond the range of {store.dtype}: set features.dtype=float32"
                    )
                writer.append(keys[missing[start : start + len(values)]], values)
                start += len(values)
    finally:
        model.train(training)
