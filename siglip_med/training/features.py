"""A frozen vision tower sees each image once: its features are computed, kept, and trained on in seconds."""

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from pydantic import NonNegativeInt
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from siglip_med.data.batch import Batch
from siglip_med.data.datamodule import DataModule
from siglip_med.data.dataset import Draw, EpochSampler, ShardSampler
from siglip_med.errors import UserError
from siglip_med.models import TwoTower


class FeatureDataset(Dataset[Batch]):
    """Features of one split in several views; a `Draw`'s random stream chooses the view."""

    def __init__(self, features: Tensor, labels: np.ndarray, rows: np.ndarray) -> None:
        """Takes ``[V, n, F]`` features, ``[n, C]`` labels and ``[n]`` table rows."""
        self.features = features
        self.rows = rows
        self._labels = torch.from_numpy(labels)
        self._index = torch.from_numpy(rows.astype(np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | Draw) -> Batch:
        """A batch of one."""
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[int | Draw]) -> Batch:
        """A batch of B: features ``[B, F]``, labels ``[B, C]``, table rows ``[B]``."""
        draws = [item if isinstance(item, Draw) else Draw(item, 0) for item in items]
        places = torch.tensor([draw.place for draw in draws])
        views = torch.tensor([draw.stream % len(self.features) for draw in draws])
        return Batch(self.features[views, places], self._labels[places], self._index[places])


class FeatureDataModule(pl.LightningDataModule):
    """Batches of features in place of images; otherwise the data module that it is made from."""

    def __init__(self, datamodule: DataModule, model: TwoTower, cache_dir: str, views: NonNegativeInt = 0) -> None:
        """Computes the features, or reads those that an earlier run computed from the same files and weights.

        Args:
            datamodule: ready data.
            model: its vision backbone must be frozen.
            cache_dir: where features are kept.
            views: augmented views of each training image; 0: the image as it is.

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
        self.image = datamodule.image
        self._views = views
        self._datasets = {split: self._dataset(split, model, Path(cache_dir)) for split in ("train", "val", "test")}

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled features, a random view of each image; this rank's share."""
        dataset, inner = self._datasets["train"], self._inner
        primary = self.table.frame["primary"].to_numpy()[dataset.rows]
        place = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        sampler = EpochSampler(dataset, inner.sampler, self.table.labels[dataset.rows], primary, inner.seed, *place)
        return _loader(dataset, sampler, inner.batch_size, inner.drop_last)

    def val_dataloader(self) -> DataLoader[Batch]:
        """This rank's share of the validation features."""
        place = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        dataset = self._datasets["val"]
        return _loader(dataset, ShardSampler(dataset, *place), self._inner.eval_batch_size)

    def full_loader(self, split: str) -> DataLoader[Batch]:
        """A whole split without augmentation, in table order."""
        dataset = self._datasets[split]
        return _loader(dataset, ShardSampler(dataset), self._inner.eval_batch_size)

    def _dataset(self, split: str, model: TwoTower, cache_dir: Path) -> FeatureDataset:
        inner, views = self._inner, self._views if split == "train" else 0
        path = cache_dir / "features" / f"{self._key(split, model, views)}.npy"
        if not path.is_file():
            loaders = [inner.view_loader(view) for view in range(views)] or [inner.full_loader(split)]
            save_whole(path, np.stack([embed(model, loader, f"embedding {split}") for loader in loaders]))
        rows = inner.rows(split)
        return FeatureDataset(torch.from_numpy(np.load(path)), self.table.labels[rows], rows)

    def _key(self, split: str, model: TwoTower, views: int) -> str:
        """Hash of everything that the features depend on: files, order, weights, size, augmentation."""
        frame = self.table.frame.iloc[self._inner.rows(split)]
        stats = [(self.table.root / image).stat() for image in frame["image"]]
        files = [f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in zip(frame["image"], stats, strict=True)]
        drawn = (views, self._inner.seed, repr(self._inner.augmentation)) if views else ()
        parts = (model.base.fingerprint, repr(model.image_spec), str(self.table.root.resolve()), *files, repr(drawn))
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


def save_whole(path: Path, values: np.ndarray) -> None:
    """Writes an array under its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        np.save(file, values)
    Path(file.name).replace(path)


def _loader(
    dataset: FeatureDataset, sampler: EpochSampler | ShardSampler, size: int, drop_last: bool = False
) -> DataLoader[Batch]:
    return DataLoader(dataset, batch_size=size, sampler=sampler, drop_last=drop_last, collate_fn=_as_made)


def _as_made(batch: Batch) -> Batch:
    return batch
