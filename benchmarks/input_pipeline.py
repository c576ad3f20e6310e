"""Images a second and core, from JPEG on disk to the tensor a model takes, beside Pillow and the library's processor.

    python benchmarks/input_pipeline.py [FOLDER_WITH_JPEGS]

All rows of a table run in turn over the same files in one process on one thread, five rounds, best round counted.
Without a folder only photographs as large as a telephone's are measured: synthetic ones, made on the fly.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from siglip_med.core.image_spec import ImageSpec
from siglip_med.data.cache import PixelCache
from siglip_med.data.dataset import Draw, ImageDataset
from siglip_med.data.table import TableRow, build_table

ROUNDS = 5
BATCH = 32
MAX_PIXELS = 150_000_000
CONFIG = Path(__file__).parents[1] / "conf" / "augmentation" / "default.yaml"


def phone_photographs(folder: Path, count: int, width: int = 1200, height: int = 1600) -> list[Path]:
    """Smooth colors with fine grain: JPEGs of a telephone's size and about its bytes per pixel."""
    generator = np.random.default_rng(0)
    paths = []
    for i in range(count):
        coarse = generator.integers(80, 220, size=(40, 30, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        grain = generator.normal(0, 6, size=(height, width, 1)).astype(np.float32)
        paths.append(folder / f"{i}.jpg")
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()  # of the processor, not of the wall: the machine may have other work
    run()
    return time.process_time() - start


class Contest:
    """The ways to one set of tensors, over the same files."""

    def __init__(self, paths: list[Path], size: int, work: Path) -> None:
        self.paths = paths
        self.size = size
        self.work = work
        self.spec = ImageSpec(size)
        self.processor = SiglipImageProcessorPil(size={"height": size, "width": size})
        self.augment = instantiate(OmegaConf.load(CONFIG)).pipeline(size)
        rows = [TableRow(image=path.name, weights={"any": 1.0}, source_row=i + 1) for i, path in enumerate(paths)]
        self.table = build_table(rows, root=paths[0].parent, source="benchmark")

    def library(self) -> None:
        """Pillow and the processor, one batch at a time, without augmentation."""
        for start in range(0, len(self.paths), BATCH):
            images = [Image.open(path).convert("RGB") for path in self.paths[start : start + BATCH]]
            self.processor(images, return_tensors="pt")["pixel_values"]

    def library_augmented(self) -> None:
        """The same with our augmentation in between, where a user of the processor would put it."""
        for start in range(0, len(self.paths), BATCH):
            images = []
            for i, path in enumerate(self.paths[start : start + BATCH]):
                square = Image.open(path).convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC)
                images.append(self.augment(np.asarray(square), start + i))
            self.processor(images, return_tensors="pt")["pixel_values"]

    def dataset(self, folder: Path, augmented: bool) -> ImageDataset:
        """Ours; decodes what the cache in ``folder`` does not hold."""
        cache = PixelCache(folder, self.size, MAX_PIXELS)
        records, bad = cache.add(self.paths)
        assert not bad
        rows = np.arange(len(self.paths))
        return ImageDataset(self.table, rows, cache, records, self.spec, self.augment if augmented else None)

    @staticmethod
    def epoch(dataset: ImageDataset) -> None:
        for start in range(0, len(dataset), BATCH):
            dataset.__getitems__([Draw(i, i) for i in range(start, min(start + BATCH, len(dataset)))])

    def first_epoch(self, augmented: bool) -> None:
        folder = self.work / "first"
        self.epoch(self.dataset(folder, augmented))
        shutil.rmtree(folder)

    def rates(self, rounds: int = ROUNDS) -> dict[str, float]:
        """Images a second of each way, in its best round."""
        plain, augmented = (self.dataset(self.work / "kept", flag) for flag in (False, True))
        ways: dict[str, Callable[[], object]] = {
            "library": self.library,
            "library, augmented": self.library_augmented,
            "ours, first epoch": lambda: self.first_epoch(False),
            "ours, first epoch, augmented": lambda: self.first_epoch(True),
            "ours, cached": lambda: self.epoch(plain),
            "ours, cached, augmented": lambda: self.epoch(augmented),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, run in ways.items():
                times[name].append(seconds(run))
        return {name: len(self.paths) / min(taken) for name, taken in times.items()}


def measure(photographs: int, size: int, rounds: int) -> dict[str, float]:
    """Images a second of each way, over photographs of a telephone's size."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        return Contest(phone_photographs(work, photographs), size, work / "work").rates(rounds)


def report(title: str, rates: dict[str, float], console: Console) -> None:
    table = Table("way", "images/s and core", "x library", "x library, augmented", title=title)
    for name, rate in rates.items():
        table.add_row(
            name, f"{rate:,.0f}", f"{rate / rates['library']:.1f}", f"{rate / rates['library, augmented']:.1f}"
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="folder with JPEGs")
    parser.add_argument("--images", type=int, default=300, help="how many of the folder's")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224], help="sides in pixels")
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "phone").mkdir()
        sets = {"1200 x 1600": phone_photographs(work / "phone", 40)}
        if arguments.folder:
            found = sorted(arguments.folder.glob("*.jpg"))
            chosen = found[:: max(len(found) // arguments.images, 1)][: arguments.images]
            sides = [min(Image.open(path).size) for path in chosen]
            sets[f"the folder's (median short side {statistics.median(sides):.0f})"] = chosen
        for label, paths in sets.items():
            for size in arguments.sizes:
                rates = Contest(paths, size, work / f"{label}-{size}").rates()
                report(f"{len(paths)} photographs of {label}, to {size} px", rates, console)


if __name__ == "__main__":
    main()
