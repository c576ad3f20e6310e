"""One dropped file to what the model sees and what the page shows of it, or one sentence that says why not."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from siglip_med.core.errors import UserError
from siglip_med.data.images import FORMATS, BadImageError, decode

SHOWN_SIDE = 640
"""Side in pixels of the square that the page shows, stretched to the photograph's own shape."""

_EXIF_ORIENTATION = 0x0112
_LYING = (5, 6, 7, 8)
"""Orientations that swap width and height."""
_TIFF_BITS = 258


@dataclass(frozen=True)
class Photograph:
    """A file that was read (nothing of the file itself is kept), and what was left out or changed in that."""

    name: str
    pixels: np.ndarray
    shown: np.ndarray
    width: int
    height: int
    notes: tuple[str, ...]


def read_photograph(data: bytes, name: str, side: int, max_pixels: int) -> Photograph:
    """Decodes a file as every other command does (`siglip_med.data.images.decode`, and its UserErrors)."""
    try:
        pixels = decode(data, side, max_pixels)
        shown = decode(data, SHOWN_SIDE, max_pixels)
    except BadImageError as error:
        raise UserError(f"{name} {error}.") from error
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if image.getexif().get(_EXIF_ORIENTATION) in _LYING:
            width, height = height, width
        return Photograph(name, pixels, shown, width, height, tuple(_notes(image, data)))


def _notes(image: Image.Image, data: bytes) -> list[str]:
    notes = []
    if getattr(image, "is_animated", False):
        notes.append("The file holds several pictures; the first one is judged.")
    if _is_deep(image, data):
        notes.append("The file has 16 bits a channel; the upper 8 of those in use are judged.")
    if image.has_transparency_data:
        notes.append("What is transparent is laid over white.")
    return notes


def _is_deep(image: Image.Image, data: bytes) -> bool:
    if image.format == "PNG":
        return data[24] == 16  # the bit depth in the header chunk
    bits = image.tag_v2.get(_TIFF_BITS, (8,)) if image.format == "TIFF" else (8,)  # type: ignore[attr-defined]
    return image.mode.startswith("I;16") or max(bits if isinstance(bits, tuple) else (bits,)) == 16
