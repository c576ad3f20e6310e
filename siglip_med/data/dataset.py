"""From positions in a split to batches: what is drawn when, and how pixels become the model's input."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler, Sampler

from siglip_med.core.image_spec import ImageSpec
from siglip_med.data.batch import Batch
from siglip_med.data.cache import PixelCache
from siglip_med.data.sampling import SamplingStrategy
from siglip_med.data.table import ImageTable

if TYPE_CHECKING:  # its library takes long to import, and who predicts augments nothing
    from siglip_med.data.augmentation import AugmentationPipeline


class Draw(NamedTuple):
    """One image to be augmented: its position in the split, and the random seed that is its alone."""

    position: int
    seed: int


class Draws(NamedTuple):
    """The draws of a whole batch: positions in the split and random seeds, both ``[B]``."""

    positions: np.ndarray
    seeds: np.ndarray


def normalize(pixels: np.ndarray, image: ImageSpec) -> Tensor:
    """``[B, H, W, 3]`` uint8 RGB to ``[B, 3, H, W]`` float32: ``(value / 255 - mean) / std``."""
    # One table per channel: half the time of arithmetic on a transposed array, and exact to float32.
    tables = (np.arange(256)[:, None] / 255 - np.array(image.mean)) / np.array(image.std)
    count, height, width, _ = pixels.shape
    values = np.empty((count, 3, height, width), dtype=np.float32)
    for square, result in zip(pixels, values, strict=True):
        for channel, plane in enumerate(cv2.split(square)):
            cv2.LUT(plane, tables[:, channel].astype(np.float32), dst=result[channel])
    return torch.from_numpy(values)


class SplitDataset(Dataset[Batch]):
    """Something that holds the images of one split; ``rows`` are their rows in the table."""

    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


class ImageDataset(SplitDataset):
    """The images of one split, as whole batches.

    A position in the split gives the image as it is; a `Draw` gives it augmented. Nothing random is kept here, so what
    a draw gives depends on no worker.
    """

    def __init__(
        self,
        table: ImageTable,
        rows: np.ndarray,
        cache: PixelCache,
        records: np.ndarray,
        image: ImageSpec,
        augment: "AugmentationPipeline | None",
    ) -> None:
        self.rows = rows
        self._labels = table.labels[rows]
        self._records = records[rows]
        self._cache = cache
        self._image = image
        self._augment = augment

    def __getitem__(self, item: int | Draw) -> Batch:
        """A batch of one."""
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[int | Draw]) -> Batch:
        """A batch of B: images ``[B, 3, size, size]``, labels ``[B, C]``, table rows ``[B]``."""
        positions = np.array([item.position if isinstance(item, Draw) else item for item in items], dtype=np.int64)
        pixels = self._cache.read(self._records[positions])
        if self._augment is not None:
            for i, item in enumerate(items):
                if isinstance(item, Draw):
                    pixels[i] = self._augment(pixels[i], item.seed)
        return Batch(
            images=normalize(pixels, self._image),
            labels=torch.from_numpy(self._labels[positions]),
            index=torch.from_numpy(self.rows[positions].astype(np.int64)),
        )


class EpochSampler(DistributedSampler[Draw]):
    """The training order: a pure function of (seed, epoch), dealt out to the ranks like cards.

    Every rank works out the same order and the same seeds, and takes every ``world_size``-th draw; the few left
    over at the end are dropped, so that all ranks take equally many steps. Lightning calls `set_epoch` before each
    epoch, also on a single device and after a resume.
    """

    def __init__(
        self,
        dataset: SplitDataset,
        sampling: SamplingStrategy,
        labels: np.ndarray,
        primary: np.ndarray,
        seed: int,
        world_size: int = 1,
        rank: int = 0,
    ) -> None:
        # A DistributedSampler, so that Lightning does not wrap it in another one.
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=seed, drop_last=True)
        self._sampling = sampling
        self._labels = labels
        self._primary = primary
        self._length = len(self.positions(0)) // world_size
        self._done = 0

    def start_at(self, epoch: int, done: int) -> None:
        """Leaves out the draws of this rank in ``epoch`` that a run has done already; later epochs are whole."""
        self.epoch, self._done = epoch, done

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next order is for."""
        if epoch != self.epoch:
            self.epoch, self._done = epoch, 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Draw]:
        return (Draw(int(position), int(seed)) for position, seed in zip(*self.draws(), strict=True))

    def draws(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions and random seeds of this rank's draws of the current epoch, both ``[n]``, in order."""
        positions = self.positions(self.epoch)
        seeds = self._generator(self.epoch, 1).integers(2**63, size=len(positions))
        mine = slice(self.rank, self._length * self.num_replicas, self.num_replicas)
        return positions[mine][self._done :], seeds[mine][self._done :]

    def positions(self, epoch: int) -> np.ndarray:
        """Places in the training split that an epoch draws, over all ranks, in order."""
        return self._sampling.indices(self._labels, self._primary, self._generator(epoch, 0))

    def _generator(self, epoch: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, purpose))


class ShardSampler(DistributedSampler[int]):
    """Every image once, in table order; the ranks share them without repeating any, so one may have one more."""

    def __init__(self, dataset: SplitDataset, world_size: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=False)
        self._places = range(rank, len(dataset), world_size)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def draws(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of this rank's images, and zeros for their seeds, both ``[n]``: nothing here is random."""
        return np.array(self._places, dtype=np.int64), np.zeros(len(self._places), dtype=np.int64)


class ViewSampler(Sampler[Draw]):
    """Every image once, in order, each with a random seed of its content and of a numbered view, in whatever table."""

    def __init__(self, contents: Sequence[str], view: int) -> None:
        digests = (hashlib.blake2b(f"{view} {content}".encode(), digest_size=8).digest() for content in contents)
        self._seeds = [int.from_bytes(digest, "little") >> 1 for digest in digests]

    def __len__(self) -> int:
        return len(self._seeds)

    def __iter__(self) -> Iterator[Draw]:
        return (Draw(position, int(seed)) for position, seed in enumerate(self._seeds))


def passthrough_collate(batch: Any) -> Batch:
    """The data set makes whole batches, so there is nothing to collate."""
    return batch
