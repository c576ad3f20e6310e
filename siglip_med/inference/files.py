"""Image files: which there are among files and folders, and those that can be read, in batches."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from siglip_med.core.errors import UserError
from siglip_med.core.image_spec import ImageSpec
from siglip_med.core.outside import printable
from siglip_med.core.progress import tracked
from siglip_med.data.dataset import normalize
from siglip_med.data.images import SUFFIXES, read_image
from siglip_med.data.quality import fault


def find_images(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """Files that are named, and every image file below folders that are named, sorted within each folder.

    Raises:
        UserError: a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for item in [images] if isinstance(images, str | Path) else images:
        path = Path(item).expanduser()
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not inside:
                raise UserError(f"images={path}: the folder holds no image ({', '.join(sorted(SUFFIXES))})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"images={path}: there is no such file or folder")
    return list(dict.fromkeys(found))


def batches(
    images: Sequence[Path], spec: ImageSpec, batch_size: int, unreadable: list[tuple[str, str]], doing: str
) -> Iterator[tuple[list[Path], Tensor, list[str]]]:
    """Readable images in batches ``[B, 3, H, W]`` with their faults; ``unreadable`` gets path and reason of the others.

    ``doing`` is what the progress bar says.
    """
    batch: list[tuple[Path, np.ndarray, str]] = []
    for position, path in enumerate(tracked(images, doing, "images"), start=1):
        try:
            if (name := printable(path)) != str(path):
                raise UserError(f"{name}: the file's name holds a control character, or is no text; rename it")
            square = read_image(path, spec.size, bits=spec.bits)
            with Image.open(path) as image:
                batch.append((path, square, fault(square, image.size)))
        except UserError as error:
            unreadable.append((printable(path), str(error)))
        if batch and (len(batch) == batch_size or position == len(images)):
            paths, squares, faults = zip(*batch, strict=True)
            yield list(paths), normalize(np.stack(squares), spec), list(faults)
            batch = []


def none_readable(unreadable: Sequence[tuple[str, str]]) -> UserError:
    """What to say where no file is an image."""
    return UserError(f"none of the {len(unreadable):,} files could be read; the first: {unreadable[0][1]}")
