"""Source, split, cache, sampling and augmentation, joined into the loaders that Lightning asks for."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeInt
from torch.utils.data import DataLoader

from siglip_med.core.errors import UserError
from siglip_med.core.files import write_csv
from siglip_med.core.image_spec import ImageSpec
from siglip_med.core.ranges import PositiveShare
from siglip_med.data.augmentation import Augmentation
from siglip_med.data.batch import Batch
from siglip_med.data.bit_depth import BitDepth, bits_in_use
from siglip_med.data.cache import PixelCache
from siglip_med.data.checks import check_table, join_identical
from siglip_med.data.dataset import Draw, ImageDataset, ShardSampler, ViewSampler, passthrough_collate
from siglip_med.data.filters import keep_rows
from siglip_med.data.images import MAX_PIXELS, MAX_PIXELS_LIMIT, MISSING_FILE, BadImageError, locate
from siglip_med.data.joining import as_one_case
from siglip_med.data.labeled import LabeledData
from siglip_med.data.loader import TimedLoader
from siglip_med.data.paths import near_files
from siglip_med.data.sampling import SamplingStrategy
from siglip_med.data.source import Source
from siglip_med.data.splitting.split import Split, Splitter, make_split
from siglip_med.data.table import ImageTable

logger = logging.getLogger(__name__)

BatchSize = Annotated[int, Field(gt=0, le=1_000_000)]


@dataclass(frozen=True)
class BadImage:
    """A row (from 1) of the table's file whose image gives none; the reason continues a sentence on the file."""

    row: int
    image: str
    reason: str


class DataModule(LabeledData):
    """Batches of one data set.

    After `setup`: ``table`` (the images in use, rows 0..N-1), ``split``, ``conditions`` (C names),
    ``train_counts`` (``[C]`` int64, training images that list each condition), ``records`` (``[N]`` in the cache) and
    ``bad_images`` (what was skipped).

    Args:
        source: Where the table comes from.
        image: What the model expects; given by the training code, not by the config.
        splitter: How train, val and test are formed.
        sampling: Which training images an epoch draws.
        cache_dir: Where decoded pixels are kept; shared between runs, may be deleted between them.
        seed: Of the split, the order and the augmentation; given by the training code.
        augmentation: What is done to training images; None leaves them as they are.
        batch_size: Images per training step and rank.
        eval_batch_size: Images per batch elsewhere.
        num_workers: Processes that make batches, and threads that decode into the cache; 0: the main process.
        drop_last: Leave out a last training batch that is not full: a batch of few images has few negatives.
        on_bad_image: ``error`` stops before training and names the first; ``skip`` leaves them out, lists them.
        max_pixels: Width times height above which a file is not decoded.
        image_bits: In use of files with 16 bits per channel, 8 to 16; None: the fewest that hold the brightest of them.
        split_file: A split saved by an earlier run, used in place of ``splitter``.
        max_left_out: Share of the source's rows that may be left out without a setting that asks for it.
        max_case_share: Share of the images that one case may hold; a larger one is rarely one person.
        look_alikes: ``report`` counts what looks alike across splits, by the base's features; ``join`` makes it one
            case before the split, where features of a frozen tower are kept (``features=cached``).
        look_alikes_threshold: Cosine from which images look alike; None for what the labels propose (docs/data.md).

    Raises:
        UserError: in `prepare_data` and `setup`: the source, an image, the split file or the cache folder is wrong.
    """

    bad_images: tuple[BadImage, ...]
    records: np.ndarray
    depth: BitDepth

    def __init__(
        self,
        source: Source,
        image: ImageSpec,
        splitter: Splitter,
        sampling: SamplingStrategy,
        cache_dir: str,
        seed: NonNegativeInt,
        augmentation: Augmentation | None = None,
        batch_size: BatchSize = 32,
        eval_batch_size: BatchSize = 128,
        num_workers: Annotated[int, Field(ge=0, le=1024)] = 2,
        drop_last: bool = True,
        on_bad_image: Literal["error", "skip"] = "error",
        max_pixels: Annotated[int, Field(gt=0, le=MAX_PIXELS_LIMIT)] = MAX_PIXELS,
        image_bits: Annotated[int, Field(ge=8, le=16)] | None = None,
        split_file: str | None = None,
        max_left_out: PositiveShare = 0.5,
        max_case_share: PositiveShare = 0.5,
        look_alikes: Literal["report", "join", "off"] = "report",
        look_alikes_threshold: PositiveShare | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        # Hydra hands dataclasses on as nodes of its own
        (r, g, b), (rs, gs, bs) = image.mean, image.std
        self.image = ImageSpec(image.size, (r, g, b), (rs, gs, bs), image.bits)
        self.splitter = splitter
        self.sampling = sampling
        self.seed = seed
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.drop_last = drop_last
        self.on_bad_image = on_bad_image
        self.split_file = split_file
        self.max_left_out = max_left_out
        self.max_case_share = max_case_share
        self.look_alikes, self.look_alikes_threshold = look_alikes, look_alikes_threshold
        self.cache_dir = Path(cache_dir)
        self.max_pixels, self.image_bits = max_pixels, image_bits
        self.cache = PixelCache(self.cache_dir, image.size, max_pixels)
        self._ready = False

    def prepare_data(self) -> None:
        """Fetches the source and decodes what the cache does not hold; Lightning runs it in one process per node."""
        if self._ready:
            return
        self.source.prepare()
        records, bad = self.decode(table := self.source.load())
        if not bad:
            return
        listed = self.cache_dir / "bad_images.csv"
        write_bad_images(listed, bad)
        if self.on_bad_image == "error":
            first, others = bad[0], f", and {len(bad) - 1:,} more" if len(bad) > 1 else ""
            near = near_files(table.root / first.image) if first.reason == MISSING_FILE else ""
            raise UserError(
                f"{table.root / first.image} (row {first.row:,} of {table.source}) {first.reason}{near}{others} "
                f"(listed in {listed}); mend the files or set data.on_bad_image=skip"
            )
        logger.warning("%d of %d images give no image and are skipped (listed in %s)", len(bad), len(records), listed)

    def setup(self, stage: str | None = None) -> None:
        """Loads the table without what gives no image, and splits it; the same on every rank, whatever ``stage``.

        Where look-alikes are joined, the split waits for `join`.
        """
        if self._ready:
            return
        records, bad = self.decode(table := self.source.load())
        table = table.with_notes(*self.depth.account())
        if bad:
            table = keep_rows(table, records >= 0, "the file gives no image (see bad_images.csv)")
        self.records = records[records >= 0]
        table = join_identical(table, self.records)
        check_table(table, self.max_left_out, self.max_case_share)
        self.table = table
        self.bad_images = tuple(bad)
        self.conditions = table.conditions
        if self.look_alikes != "join":
            self._divide()
        self._ready = True

    def join(self, features: np.ndarray) -> None:
        """Makes look-alikes one case, by ``[N, F]`` features of a frozen tower, and splits the table.

        Raises:
            UserError: no threshold is given and the labels propose none, or one case becomes most of the data.
        """
        self.table = as_one_case(self.table, features, self.look_alikes_threshold)
        check_table(self.table, self.max_left_out, self.max_case_share)
        self._divide()

    def _divide(self) -> None:
        if self.split_file is None:
            self.split = make_split(self.table, self.splitter, self.seed)
        else:
            self.split = Split.load(Path(self.split_file), self.table)
        self.train_counts = (self.table.labels[self.split.train] > 0).sum(axis=0)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Augmented batches in a new order each epoch; this rank's share. A UserError where that fills no batch."""
        dataset = self._dataset(self.rows("train"), augmented=True)
        sampler = self.training_sampler(dataset, self.batch_size, self.drop_last)
        return self._loader(dataset, sampler, self.batch_size, drop_last=self.drop_last)

    def val_dataloader(self) -> DataLoader[Batch]:
        """This rank's share of the validation images, none twice."""
        dataset = self._dataset(self.rows("val"))
        return self._loader(dataset, ShardSampler(dataset, *self.world_size_and_rank()), self.eval_batch_size)

    def full_loader(self, split: str, chosen: np.ndarray | None = None) -> DataLoader[Batch]:
        """The whole split on every rank, or its chosen rows, without augmentation, in the order of `rows`."""
        dataset = self._dataset(self.rows(split, chosen))
        return self._loader(dataset, ShardSampler(dataset), self.eval_batch_size)

    @property
    def contents(self) -> list[str]:
        """The N images' contents, as 32 hexadecimal digits each."""
        return self.cache.digests(self.records)

    def table_loader(self, rows: np.ndarray, view: int | None = None) -> DataLoader[Batch]:
        """Images of the table, in the order of ``rows``, for features that are kept; or their augmented ``view``."""
        dataset = self._dataset(rows, augmented=view is not None)
        if view is None:
            return self._loader(dataset, ShardSampler(dataset), self.eval_batch_size)
        contents = self.contents
        return self._loader(dataset, ViewSampler([contents[row] for row in rows], view), self.eval_batch_size)

    def save_bad_images(self, path: Path) -> None:
        """Writes the skipped images as a CSV (row, image, reason); no file where there is none."""
        if self.bad_images:
            write_bad_images(path, self.bad_images)

    def decode(self, table: ImageTable) -> tuple[np.ndarray, list[BadImage]]:
        """``[N]`` records of a table's images in the cache, -1 where there is no image, and why."""
        images = table.frame["image"].tolist()
        reasons: dict[int, str] = {}
        paths: dict[int, Path] = {}
        for position, image in enumerate(images):
            try:
                paths[position] = locate(table.root, image)
            except BadImageError as error:
                reasons[position] = str(error)
        self.depth = bits_in_use(list(paths.values()), self.cache_dir / "bits.json", self.num_workers, self.image_bits)
        self.image = replace(self.image, bits=self.depth.bits)
        self.cache = PixelCache(self.cache_dir, self.image.size, self.max_pixels, self.depth.bits)
        records = np.full(len(images), -1, dtype=np.int64)
        positions = list(paths)
        records[positions], failed = self.cache.add(list(paths.values()), workers=self.num_workers)
        reasons |= {positions[i]: reason for i, reason in failed.items()}
        rows = table.frame["source_row"].tolist()
        return records, [BadImage(rows[i], images[i], reasons[i]) for i in sorted(reasons)]

    def _dataset(self, rows: np.ndarray, augmented: bool = False) -> ImageDataset:
        augment = self.augmentation.pipeline(self.image.size) if augmented and self.augmentation else None
        return ImageDataset(self.table, rows, self.cache, self.records, self.image, augment)

    def _loader(
        self, dataset: ImageDataset, sampler: Iterable[Draw | int], size: int, drop_last: bool = False
    ) -> DataLoader[Batch]:
        return TimedLoader(
            dataset,
            batch_size=size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.num_workers,
            collate_fn=passthrough_collate,
            pin_memory=self.pins_memory,
            persistent_workers=self.num_workers > 0,
        )


def write_bad_images(path: Path, bad: tuple[BadImage, ...] | list[BadImage]) -> None:
    """A CSV of images that cannot be used: row, image, reason; in place only when whole."""
    write_csv(path, ("row", "image", "reason"), ((item.row, item.image, item.reason) for item in bad))
