"""A frozen vision tower sees each image once: its features are computed, kept, and trained on in seconds."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from siglip_med.data.batch import Batch
from siglip_med.data.datamodule import DataModule
from siglip_med.data.dataset import Draws, EpochSampler, ShardSampler, SplitDataset, passthrough_collate
from siglip_med.data.labeled import LabeledData
from siglip_med.data.table import ImageTable
from siglip_med.errors import UserError
from siglip_med.models import TwoTower
from siglip_med.seals import check_sealed, write_sealed

Views = Annotated[int, Field(ge=0, le=1000)]


class FeatureDataset(SplitDataset):
    """Features of one split in several views; a draw's random seed chooses the view."""

    def __init__(self, features: Tensor, table: ImageTable, rows: np.ndarray) -> None:
        """Takes ``[V, N, F]`` features of the whole table, and the ``[n]`` rows of the split."""
        self.rows = rows
        self._views = len(features)
        self._features = features.flatten(0, 1)
        self._labels = torch.from_numpy(table.labels)
        self._index = torch.from_numpy(rows.astype(np.int64))

    def __getitem__(self, item: int | Draws) -> Batch:
        """A batch of B: features ``[B, F]``, labels ``[B, C]``, table rows ``[B]``; a batch of one for a position."""
        draws = item if isinstance(item, Draws) else Draws(np.array([item]), np.zeros(1, dtype=np.int64))
        index = self._index[torch.from_numpy(draws.positions)]
        view = torch.from_numpy(draws.seeds % self._views)
        return Batch(self._features[view * len(self._labels) + index], self._labels[index], index)


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
        # a run that goes on inside an epoch has fewer left than `len` says
        left = len(draws[0])
        whole = left - left % self._batch_size if self.drop_last else left
        starts = range(0, whole, self._batch_size)
        return (Draws(*(part[start : start + self._batch_size] for part in draws)) for start in starts)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch."""
        self._sampler.set_epoch(epoch)


class FeatureDataModule(LabeledData):
    """Batches of features in place of images; otherwise the data module that it is made from."""

    def __init__(self, datamodule: DataModule, model: TwoTower, cache_dir: str, views: Views = 0) -> None:
        """Computes the features of the whole table, or reads those of an earlier run with the same files and weights.

        Args:
            datamodule: ready data.
            model: its vision backbone must be frozen.
            cache_dir: where features are kept; any split of the same table shares them.
            views: augmented views of each image to train on; 0: the image as it is.

        Raises:
            UserError: the vision backbone is trained.
        """
        super().__init__()
        if not model.vision_is_frozen:
            raise UserError(
                "features: the vision tower is trained, so its features change each step; "
                "set model/adaptation=frozen or model.adaptation.towers=text, or features=null"
            )
        self._inner = datamodule
        self.table, self.split = datamodule.table, datamodule.split
        self.conditions, self.train_counts = datamodule.conditions, datamodule.train_counts
        folder = Path(cache_dir) / "features"
        self._plain = torch.from_numpy(self._features(folder, model, None)).unsqueeze(0)
        augmented = [torch.from_numpy(self._features(folder, model, view)) for view in range(views)]
        self._views = torch.stack(augmented) if augmented else self._plain

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled features, a random view of each image; this rank's share."""
        inner = self._inner
        dataset = FeatureDataset(self._views, self.table, self.split.train)
        labels, primary = self.table.labels[dataset.rows], self.table.frame["primary"].to_numpy()[dataset.rows]
        sampler = EpochSampler(dataset, inner.sampling, labels, primary, inner.seed, *self.world_size_and_rank())
        epoch, batches = self.start
        sampler.start_at(epoch, batches * inner.batch_size)
        return _loader(dataset, sampler, inner.batch_size, inner.drop_last)

    def val_dataloader(self) -> DataLoader[Batch]:
        """This rank's share of the validation features."""
        dataset = FeatureDataset(self._plain, self.table, self.split.val)
        return _loader(dataset, ShardSampler(dataset, *self.world_size_and_rank()), self._inner.eval_batch_size)

    def full_loader(self, split: str) -> DataLoader[Batch]:
        """A whole split without augmentation, in table order."""
        dataset = FeatureDataset(self._plain, self.table, self._inner.rows(split))
        return _loader(dataset, ShardSampler(dataset), self._inner.eval_batch_size)

    def save_bad_images(self, path: Path) -> None:
        """As of the data module that this is made from."""
        self._inner.save_bad_images(path)

    def _features(self, folder: Path, model: TwoTower, view: int | None) -> np.ndarray:
        path = folder / f"{self._key(model, view)}.npy"
        if path.is_file() and (wrong := check_sealed(path)) is not None:
            Console(stderr=True).print(f"{path} {wrong}: computing it again", soft_wrap=True, markup=False)
            path.unlink()
        if not path.is_file():
            name = "embedding the images" if view is None else f"embedding view {view}"
            values = embed(model, self._inner.table_loader(view), name)
            write_sealed(path, lambda file: np.save(file, values))
        features: np.ndarray = np.load(path)
        return features

    def _key(self, model: TwoTower, view: int | None) -> str:
        """Hash of everything that the features depend on: files, order, weights, size, augmentation."""
        images = self.table.frame["image"]
        stats = [(self.table.root / image).stat() for image in images]
        files = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in zip(images, stats, strict=True)]
        drawn = "" if view is None else f"{view} {vars(self._inner.augmentation) if self._inner.augmentation else None}"
        parts = (model.base.fingerprint, repr(model.image_spec), str(self.table.root.resolve()), *files, drawn)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@torch.no_grad()
def embed(model: TwoTower, loader: DataLoader[Batch], description: str) -> np.ndarray:
    """``[n, F]`` float32 features of a loader's images, in its order."""
    training = model.training
    model.eval()
    device = model.logit_scale.device
    parts = [
        model.image_features(batch.images.to(device)).float().cpu()
        for batch in track(loader, description=description, transient=True)
    ]
    model.train(training)
    return torch.cat(parts).numpy()


def _loader(
    dataset: FeatureDataset, sampler: EpochSampler | ShardSampler, size: int, drop_last: bool = False
) -> DataLoader[Batch]:
    batches = BatchSampler(sampler, size, drop_last)
    return DataLoader(dataset, batch_size=None, sampler=batches, collate_fn=passthrough_collate)
