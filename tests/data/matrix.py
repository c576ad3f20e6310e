"""Every kind of image file that other software writes, and the pixels that each must give: made by hand from formulas.

Writers are tifffile, imagecodecs, Pillow and plain bytes; nothing of them is used to read.
"""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

SIDE = 32
_Y, _X = np.mgrid[:SIDE, :SIDE]
SHARES = 0.1 + 0.8 * np.stack([_X / SIDE, _Y / SIDE, (_X + _Y) / (2 * SIDE)], axis=-1)
"""Red, green and blue in [0, 1]: a ramp each."""
RGB8 = (SHARES * 255).round().astype(np.uint8)
GRAY8 = np.repeat(RGB8[..., :1], 3, axis=-1)


@dataclass(frozen=True)
class Cell:
    """A file, and ``[H, W, 3]`` uint8 pixels that are right; refusing it is right too."""

    kind: str
    data: bytes
    right: np.ndarray
    tolerance: float = 1.0
    bits: int = 16


def deep(bits: int) -> np.ndarray:
    """The picture with so many bits, in uint8 or uint16."""
    return (SHARES * (2**bits - 1)).round().astype(np.uint8 if bits <= 8 else np.uint16)


def cells() -> Iterator[Cell]:
    """All of them."""
    yield from tiffs()
    yield from pngs()
    yield from jpegs()
    yield from others()
    yield from pnms()


def tiff(array: np.ndarray, **how: Any) -> bytes:
    """A TIFF file."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, **how)
    return file.getvalue()


def pillow(image: Image.Image | np.ndarray, form: str, **how: Any) -> bytes:
    """A file that Pillow writes."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form, **how)
    return file.getvalue()


def tiffs() -> Iterator[Cell]:
    """Byte order x compression x bits x photometric, and rarer kinds."""
    for order, compression, bits in itertools.product("<>", (None, "lzw", "zlib", "packbits", "zstd", "lzma"), (8, 16)):
        color, top = deep(bits), 2**bits - 1
        opaque, ink = np.full((SIDE, SIDE, 1), top, color.dtype), (top - color.astype(int)).astype(color.dtype)
        kinds: dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]] = {
            "RGB": (color, RGB8, {"photometric": "rgb"}),
            "RGB in planes": (np.moveaxis(color, -1, 0), RGB8, {"photometric": "rgb", "planarconfig": "separate"}),
            "RGBA": (np.concatenate([color, opaque], -1), RGB8, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
            "gray": (color[..., 0], GRAY8, {"photometric": "minisblack"}),
            "gray from white": (ink[..., 0], GRAY8, {"photometric": "miniswhite"}),
            "CMYK": (np.concatenate([ink, 0 * opaque], -1), RGB8, {"photometric": "separated"}),
        }
        if compression not in (None, "packbits"):
            kinds["RGB with a predictor"] = (color, RGB8, {"photometric": "rgb", "predictor": True})
        for kind, (array, right, how) in kinds.items():
            data = tiff(array, byteorder=order, compression=compression, **how)
            yield Cell(f"TIFF {order} {compression or 'plain'} {bits} bits, {kind}", data, right)
    for name, how in {"tiles": {"tile": (16, 16)}, "strips": {"rowsperstrip": 5}, "BigTIFF": {"bigtiff": True}}.items():
        for bits in (8, 16):
            yield Cell(f"TIFF {bits} bits, {name}", tiff(deep(bits), photometric="rgb", **how), RGB8)
    for bits in (8, 10, 12, 14):
        yield Cell(f"TIFF {bits} in 16 bits", tiff(deep(bits).astype(np.uint16), photometric="rgb"), RGB8, bits=bits)
        gray = deep(bits)[..., 0].astype(np.uint16)
        yield Cell(f"TIFF gray {bits} in 16 bits", tiff(gray, photometric="minisblack"), GRAY8, bits=bits)
    bright = RGB8[..., 0] > 127
    yield Cell(
        "TIFF 1 bit", tiff(bright, photometric="minisblack"), np.repeat(bright[..., None] * np.uint8(255), 3, -1)
    )
    packed = tiff(deep(12)[..., 0], photometric="minisblack", bitspersample=12)
    yield Cell("TIFF gray 12 bits, packed", packed, GRAY8)
    yield Cell("TIFF float", tiff(SHARES.astype(np.float32), photometric="rgb"), RGB8)
    yield Cell("TIFF 32 bits", tiff((SHARES * (2**32 - 1)).astype(np.uint32), photometric="rgb"), RGB8)
    for dtype, half in (("int8", 128), ("int16", 2**15)):
        signed = (deep(8 * np.dtype(dtype).itemsize)[..., 0].astype(int) - half).astype(dtype)
        yield Cell(f"TIFF gray {dtype}", tiff(signed, photometric="minisblack"), GRAY8)
    middle = np.zeros((SIDE, SIDE, 3), np.uint8)
    middle[..., 0] = 127
    yield Cell("TIFF CIELAB", tiff(middle, photometric="cielab"), np.full((SIDE, SIDE, 3), 119, np.uint8))
    yield Cell("TIFF JPEG inside", tiff(RGB8, photometric="rgb", compression="jpeg"), RGB8, 6)
    yield Cell("TIFF JPEG 2000 inside", tiff(RGB8, photometric="rgb", compression="jpeg2000"), RGB8, 4)


def pngs() -> Iterator[Cell]:
    """Bits x channels, palettes, transparency."""
    for bits in (8, 16):
        color = deep(bits)
        opaque = np.full((SIDE, SIDE, 1), 2**bits - 1, color.dtype)
        arrays = {"RGB": color, "RGBA": np.concatenate([color, opaque], -1)}
        grays = {"gray": color[..., 0], "gray with alpha": np.concatenate([color[..., :1], opaque], -1)}
        for kind, array in (arrays | grays).items():
            data = imagecodecs.png_encode(np.ascontiguousarray(array))
            yield Cell(f"PNG {bits} bits, {kind}", data, RGB8 if kind in arrays else GRAY8)
    half = np.concatenate([deep(16), np.full((SIDE, SIDE, 1), 2**15, np.uint16)], -1)
    over_white = ((RGB8.astype(float) + 255) / 2).round().astype(np.uint8)
    yield Cell("PNG 16 bits, half transparent", imagecodecs.png_encode(half), over_white)
    for bits in (8, 10, 12, 14):
        color = deep(bits).astype(np.uint16)
        opaque = np.full((SIDE, SIDE, 1), 2**bits - 1, np.uint16)
        yield Cell(f"PNG {bits} in 16 bits", imagecodecs.png_encode(color), RGB8, bits=bits)
        with_alpha = np.concatenate([color, opaque], -1)
        yield Cell(f"PNG RGBA {bits} in 16 bits", imagecodecs.png_encode(with_alpha), RGB8, bits=bits)
        gray = np.ascontiguousarray(color[..., 0])
        yield Cell(f"PNG gray {bits} in 16 bits", imagecodecs.png_encode(gray), GRAY8, bits=bits)
    for bits in (1, 2, 4):
        palette = Image.fromarray(RGB8).quantize(2**bits)
        yield Cell(f"PNG palette of {bits} bits", pillow(palette, "PNG", bits=bits), np.asarray(palette.convert("RGB")))


def jpegs() -> Iterator[Cell]:
    """JPEG's color spaces and kinds, JPEG 2000's bits, and what is no JPEG though it is called so."""
    for mode in ("RGB", "L", "CMYK"):
        data = pillow(Image.fromarray(RGB8 if mode != "L" else RGB8[..., 0]).convert(mode), "JPEG", quality=98)
        yield Cell(f"JPEG {mode}", data, GRAY8 if mode == "L" else RGB8, 4)
    for name, how in {"progressive": {"progressive": True}, "4:2:0": {"subsampling": 2}}.items():
        yield Cell(f"JPEG {name}", pillow(RGB8, "JPEG", quality=98, **how), RGB8, 6)
    yield Cell("JPEG stored as RGB", imagecodecs.jpeg8_encode(RGB8, 98, colorspace="RGB", outcolorspace="RGB"), RGB8, 4)
    yield Cell("JPEG 12 bits", imagecodecs.jpeg8_encode(deep(12), 98, bitspersample=12), RGB8, 4)
    yield Cell("JPEG lossless", imagecodecs.ljpeg_encode(RGB8[..., 0]), GRAY8)
    yield Cell("JPEG-LS", imagecodecs.jpegls_encode(RGB8), RGB8)
    yield Cell("JPEG XL", imagecodecs.jpegxl_encode(RGB8, lossless=True), RGB8)
    for bits, form in itertools.product((8, 10, 12, 16), ("jp2", "j2k")):
        for kind, array, right in (("RGB", deep(bits), RGB8), ("gray", deep(bits)[..., 0], GRAY8)):
            data = imagecodecs.jpeg2k_encode(
                np.ascontiguousarray(array), level=0, reversible=True, codecformat=form, bitspersample=bits
            )
            yield Cell(f"JPEG 2000 {form} {bits} bits, {kind}", data, right)
    opaque = np.concatenate([RGB8, np.full((SIDE, SIDE, 1), 255, np.uint8)], -1)
    yield Cell("JPEG 2000 RGBA", imagecodecs.jpeg2k_encode(opaque, level=0, reversible=True), RGB8)


def others() -> Iterator[Cell]:
    """AVIF, HEIC, WebP, BMP, GIF."""
    for bits in (8, 10, 12):
        data = imagecodecs.avif_encode(deep(bits), level=100, bitspersample=bits)
        yield Cell(f"AVIF {bits} bits", data, RGB8, 3)
    opaque = np.concatenate([RGB8, np.full((SIDE, SIDE, 1), 255, np.uint8)], -1)
    yield Cell("WebP without loss", pillow(RGB8, "WEBP", lossless=True), RGB8)
    yield Cell("WebP with loss", pillow(RGB8, "WEBP", quality=95), RGB8, 6)
    yield Cell("WebP RGBA", pillow(opaque, "WEBP", lossless=True), RGB8)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        image = Image.fromarray(RGB8).convert(mode)
        yield Cell(f"BMP {mode}", pillow(image, "BMP"), np.asarray(image.convert("RGB")))
    palette = Image.fromarray(RGB8).quantize(64)
    yield Cell("GIF", pillow(palette, "GIF"), np.asarray(palette.convert("RGB")))


def pnms() -> Iterator[Cell]:
    """Text and bytes, gray and color, by the largest value."""
    for magic, top in itertools.product(("P2", "P3", "P5", "P6"), (255, 1000, 1023, 4095, 65535)):
        values = (SHARES * top).round().astype(int)
        values = values if magic in ("P3", "P6") else values[..., 0]
        body = " ".join(map(str, values.ravel())).encode()
        if magic in ("P5", "P6"):
            body = values.astype(">u2" if top > 255 else np.uint8).tobytes()
        data = f"{magic}\n{SIDE} {SIDE}\n{top}\n".encode() + body
        yield Cell(f"PNM {magic} up to {top}", data, RGB8 if magic in ("P3", "P6") else GRAY8)
