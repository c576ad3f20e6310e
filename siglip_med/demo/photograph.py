"""One dropped file to what the model sees and what the page shows of it, or one sentence that says why not."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from siglip_med.core.errors import UserError
from siglip_med.core.image_spec import ImageSpec
from siglip_med.data.images import FORMATS, BadImageError, decode, has_sixteen_bits

SHOWN_SIDE = 640
"""Side in pixels of the square that the page shows, stretched to the photograph's own shape."""

_EXIF_ORIENTATION = 0x0112
_LYING = (5, 6, 7, 8)
"""Orientations that swap width and height."""


@dataclass(frozen=True)
class Photograph:
    """A file that was read (nothing of the file itself is kept), and what was left out or changed in that."""

    name: str
    pixels: np.ndarray
    shown: np.ndarray
    width: int
    height: int
    notes: tuple[str, ...]


def read_photograph(data: bytes, name: str, spec: ImageSpec, max_pixels: int) -> Photograph:
    """Decodes a file as every other command does (`siglip_med.data.images.decode`, and its UserErrors)."""
    try:
        pixels = decode(data, spec.size, max_pixels, spec.bits)
        shown = decode(data, SHOWN_SIDE, max_pixels, spec.bits)
    except BadImageError as error:
        raise UserError(f"{name} {error}.") from error
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if image.getexif().get(_EXIF_ORIENTATION) in _LYING:
            width, height = height, width
        return Photograph(name, pixels, shown, width, height, tuple(_notes(image, data, spec.bits)))


def _notes(image: Image.Image, data: bytes, bits: int) -> list[str]:
    notes = []
    if getattr(image, "is_animated", False):
        notes.append("The file holds several pictures; the first one is judged.")
    if has_sixteen_bits(image, data):
        notes.append(f"The file has 16 bits per channel; the upper 8 of {bits} are judged, as in training.")
    if image.has_transparency_data:
        notes.append("What is transparent is laid over white.")
    return notes
