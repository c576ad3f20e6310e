"""What photographs look like to a program: blank, dark, blurred, small, or nearly the same as another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagehash
import numpy as np
from PIL import Image

from siglip_med.core.progress import tracked
from siglip_med.data.cache import PixelCache

BLANK = 8
"""Gray at the 99th percentile minus gray at the first, of an image without any content."""
DARK, BLURRED = 40.0, 8.0
"""What `Quality.found` is asked for, unless somebody knows better."""
FAULTS = ("blank", "dark", "blurred", "tiny")


@dataclass(frozen=True)
class Quality:
    """Measures of N images.

    Attributes:
        contrast: ``[N]`` gray at the 99th percentile minus gray at the first, 0 to 255.
        bright: ``[N]`` gray at the 99th percentile.
        sharpness: ``[N]`` variance of the Laplacian (Pech-Pacheco et al. 2000) of the square that a model sees.
        sides: ``[N, 2]`` width and height of the file in pixels.
        hashes: ``[N]`` uint64, perceptual hash.
    """

    contrast: np.ndarray
    bright: np.ndarray
    sharpness: np.ndarray
    sides: np.ndarray
    hashes: np.ndarray

    def found(self, dark: float, blurred: float, small: int) -> dict[str, np.ndarray]:
        """Rows by fault, the worst first; a row has the first fault that fits.

        Args:
            dark: gray of 255 below which 99 of 100 pixels of a dark image lie.
            blurred: sharpness below which an image is blurred.
            small: pixels below which the shorter side is small.
        """
        blank = self.contrast < BLANK
        is_dark = ~blank & (self.bright < dark)
        soft = ~blank & ~is_dark & (self.sharpness < blurred)
        short = self.sides.min(axis=1)
        faults = {
            "blank": (blank, self.contrast),
            "dark": (is_dark, self.bright),
            "blurred": (soft, self.sharpness),
            f"smaller than {small} pixels": (short < small, short),
        }
        return {
            name: np.flatnonzero(mask)[np.argsort(values[mask], kind="stable")]
            for name, (mask, values) in faults.items()
        }


def measure(paths: Sequence[Path], records: np.ndarray, cache: PixelCache) -> Quality:
    """Measures N files by their decoded squares in the cache; of the files only the headers are read."""
    count = len(records)
    contrast, bright, sharpness = (np.zeros(count) for _ in range(3))
    sides = np.zeros((count, 2), dtype=np.int64)
    hashes = np.zeros(count, dtype=np.uint64)
    for row, path in enumerate(tracked(paths, "looking at the images", "images")):
        gray = cv2.cvtColor(cache.read(records[row : row + 1])[0], cv2.COLOR_RGB2GRAY)
        contrast[row], bright[row], sharpness[row] = _measures(gray)
        hashes[row] = int(str(imagehash.phash(Image.fromarray(gray))), 16)
        with Image.open(path) as image:
            sides[row] = image.size
    return Quality(contrast, bright, sharpness, sides, hashes)


def fault(square: np.ndarray, sides: tuple[int, int]) -> str:
    """The first of `FAULTS` that a photograph has, or "".

    Args:
        square: ``[S, S, 3]`` uint8 RGB as a model sees it.
        sides: width and height of the file; tiny is what has to be enlarged more than twice.
    """
    contrast, bright, sharpness = np.array([_measures(cv2.cvtColor(square, cv2.COLOR_RGB2GRAY))]).T
    quality = Quality(contrast, bright, sharpness, np.array([sides]), np.zeros(1, dtype=np.uint64))
    found = quality.found(DARK, BLURRED, -(-len(square) // 2))
    return next((name for name, rows in zip(FAULTS, found.values(), strict=True) if len(rows)), "")


def _measures(gray: np.ndarray) -> tuple[float, float, float]:
    """Contrast, brightness and sharpness; see `Quality`."""
    low, high = np.percentile(gray, (1, 99))
    return float(high - low), float(high), float(cv2.Laplacian(gray, cv2.CV_64F).var())
