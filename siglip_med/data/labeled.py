"""What a run asks of its data, whether it holds pixels or features of a frozen tower."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import numpy as np
from torch.utils.data import DataLoader

from siglip_med.core.errors import UserError
from siglip_med.data.batch import Batch
from siglip_med.data.dataset import EpochSampler, SplitDataset
from siglip_med.data.sampling import PerSource, SamplingStrategy, effective_counts
from siglip_med.data.splitting import Split
from siglip_med.data.table import ImageTable


class LabeledData(pl.LightningDataModule, ABC):
    """A split table and its loaders: `DataModule` for pixels, `FeatureDataModule` for features of a frozen tower.

    Attributes:
        table: the N images in use.
        split: which of them are train, val and test.
        conditions: the C names.
        train_counts: ``[C]`` int64, training images that list each condition.
        sampling: which of the training images an epoch draws.
        seed: of the draws.
        start: epoch and batches of it that a resumed run has done.
        look_alikes: as in `DataModule`, and ``look_alikes_threshold``.
        kept: ``[N, F]`` pooled features of a frozen tower, of the whole table; None where none are at hand.
    """

    table: ImageTable
    split: Split
    conditions: tuple[str, ...]
    train_counts: np.ndarray
    sampling: SamplingStrategy
    seed: int
    start: tuple[int, int] = (0, 0)
    look_alikes: Literal["report", "join", "off"] = "off"
    look_alikes_threshold: float | None = None
    kept: np.ndarray | None = None

    def start_at(self, epoch: int, batches: int) -> None:
        """Makes the training loader begin inside a run: without the batches of an epoch (from 0) that are done."""
        self.start = (epoch, batches)

    def drawn_counts(self) -> np.ndarray:
        """``[C]`` int64: images of an epoch's draws that list each condition, which is what a loss is trained on."""
        rows = self.split.train
        labels, primary = self.table.labels[rows], self.table.frame["primary"].to_numpy()[rows]
        sampling = self.sampling_of(rows)
        return effective_counts(labels, sampling.indices(labels, primary, np.random.default_rng(self.seed)))

    def sampling_of(self, rows: np.ndarray) -> SamplingStrategy:
        """The strategy for these rows of the table; one per source is told whose they are."""
        if not isinstance(self.sampling, PerSource):
            return self.sampling
        if "source" not in self.table.frame:
            raise UserError(f"{self.table.source}: data/sampling=per_source is for data=mixture; this is one source")
        return self.sampling.of(self.table.frame["source"].to_numpy(dtype=str)[rows])

    def rows(self, split: str, chosen: np.ndarray | None = None) -> np.ndarray:
        """Table rows of ``train``, ``val`` or ``test`` (that are ``chosen``), in the order of `full_loader`."""
        rows = {"train": self.split.train, "val": self.split.val, "test": self.split.test}[split]
        return rows if chosen is None else rows[np.isin(rows, chosen)]

    def training_sampler(self, dataset: SplitDataset, batch_size: int, drop_last: bool) -> EpochSampler:
        """This rank's share of an epoch's draws, from where the run is; a UserError where that fills no batch."""
        labels, primary = self.table.labels[dataset.rows], self.table.frame["primary"].to_numpy()[dataset.rows]
        sampling = self.sampling_of(dataset.rows)
        sampler = EpochSampler(dataset, sampling, labels, primary, self.seed, *self.world_size_and_rank())
        if drop_last and len(sampler) < batch_size:
            raise UserError(
                f"{self.table.source}: {len(sampler):,} training images a rank do not fill one batch of "
                f"{batch_size:,}; lower data.batch_size or set data.drop_last=false"
            )
        epoch, batches = self.start
        sampler.start_at(epoch, batches * batch_size)
        return sampler

    @abstractmethod
    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches in a new order each epoch; this rank's share."""

    @abstractmethod
    def val_dataloader(self) -> DataLoader[Batch]:
        """This rank's share of the validation images, none twice."""

    @abstractmethod
    def full_loader(self, split: str, chosen: np.ndarray | None = None) -> DataLoader[Batch]:
        """All of a split, or its rows that are ``chosen``, on every rank, unaugmented, in the order of `rows`."""

    @abstractmethod
    def save_bad_images(self, path: Path) -> None:
        """Writes the images that were skipped as a CSV (row, image, reason); no file where there is none."""

    @property
    def pins_memory(self) -> bool:
        """Whether batches go to a GPU: from pinned memory Lightning copies them while the device computes."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def world_size_and_rank(self) -> tuple[int, int]:
        """Number of processes of the trainer, and which of them this is."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
