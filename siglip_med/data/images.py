"""One photograph file to a square of RGB pixels, or one sentence that says why not.

Never a made-up image: a file that is truncated or damaged is refused, even where a decoder would fill the gap in
gray. JPEG goes through libjpeg-turbo in strict mode (`simplejpeg`), since OpenCV and Pillow both pass over damage that
libjpeg itself has noticed; everything else goes through Pillow.
"""

import io
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image, ImageOps, UnidentifiedImageError

from siglip_med.core.errors import UserError


def register_heic() -> tuple[str, ...]:
    """Teaches Pillow HEIC where pillow-heif is installed (an extra), and names the format."""
    try:
        import pillow_heif
    except ImportError:
        return ()
    pillow_heif.register_heif_opener()
    return ("HEIF",)


FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", *register_heic())
"""Formats that are read (Pillow's names). The rest is refused: some of Pillow's readers start other programs."""

Image.init()
SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
"""Endings, in lower case, of files of these formats; folders are searched for them."""

HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
"""Endings of the photographs that phones write; read where pillow-heif is installed."""

MIN_SIDE = 8
"""Shortest side in pixels of anything that can be a photograph; below it lie placeholders and tracking pixels."""

MAX_PIXELS_LIMIT = 178_956_970
"""Pillow refuses more on its own (twice `PIL.Image.MAX_IMAGE_PIXELS`), so no higher limit can be asked for."""

MAX_PIXELS = 150_000_000
"""Width times height above which a file is not decoded, where nobody says otherwise."""

SCALE_SLACK = 2
"""A JPEG is decoded no smaller than this many times the wanted side, so that the final resize decides the look."""

JPEG_MAX_SIDE = 65_500
"""Pixels that libjpeg writes at most along a side."""

MISSING_FILE = "does not exist"

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_STRAY_BYTES = 2
_EXIF_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_PLANES, _TIFF_SAMPLE_FORMAT = 258, 262, 284, 339
_WHITE_IS_ZERO, _SEPARATE, _SIGNED = 0, 2, 2
# What Pillow's readers raise on bytes that are no valid image. Only calls of Pillow are guarded by it: what our own
# lines raise is an error of ours, not of a photograph.
_READER_ERRORS = (
    OSError, ValueError, SyntaxError, struct.error, EOFError, LookupError, TypeError, AttributeError, ArithmeticError,
    AssertionError, MemoryError, RuntimeError,
)  # fmt: skip


class BadImageError(UserError):
    """Why one file gives no image; the text continues a sentence that starts with the file's name."""


def locate(root: Path, image: str) -> Path:
    """Path of a table's image below its root.

    The check is on the text of the path: links inside the folder are the owner's own choice and are followed.

    Raises:
        BadImageError: the path is empty or leaves ``root``.
    """
    if not image:
        raise BadImageError("has no file name")
    folder = os.path.abspath(root)  # noqa: PTH100 - resolve() would follow links
    path = Path(os.path.abspath(os.path.join(folder, image)))  # noqa: PTH100, PTH118
    if folder == str(path) or not path.is_relative_to(folder):
        raise BadImageError(f"lies outside the image folder {root}")
    return path


def read_bytes(path: Path) -> bytes:
    """Content of an image file; a BadImageError if it is missing, not a regular file, unreadable or empty."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadImageError("is not a file")
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadImageError(MISSING_FILE) from None
    except (OSError, ValueError) as error:
        raise BadImageError(f"cannot be read ({_first_line(error)})") from error
    if not data:
        raise BadImageError("is empty (0 bytes)")
    return data


def decode(data: bytes, side: int, max_pixels: int, bits: int = 16) -> np.ndarray:
    """Pixels of an encoded image, resized to a square without keeping the aspect, as SigLIP's processor does.

    EXIF orientation is applied; of an animation or a multi-page file the first frame is taken; transparency is laid
    over white; of 16 bits per channel the upper 8 of those in use are taken (12-bit cameras leave the uppermost four
    empty); CMYK becomes RGB; embedded color profiles are ignored, as in the processor. The resize is Pillow's
    antialiased bicubic, the processor's own: the result equals the processor's pixel by pixel unless a JPEG is over
    `SCALE_SLACK` times as large as ``side``, in which case libjpeg decodes it at a smaller scale first (mean difference
    about 0.5 of 255).

    Args:
        data: content of the file.
        side: of the square, in pixels.
        max_pixels: width times height above which nothing is decoded.
        bits: in use of the 16 of a file that has 16 per channel, 8 to 16: one number for a whole data set
            (`siglip_med.data.bit_depth`), since one picture cannot tell. Other files do not ask.

    Returns:
        ``[side, side, 3]`` uint8, RGB.

    Raises:
        BadImageError: not an image, truncated, damaged, too large, too small, or of a pixel type without a range.
    """
    return _decode(data, max_pixels, bits, lambda width, height: (side, side))


def thumbnail(path: Path, side: int, bits: int = 16) -> np.ndarray:
    """A photograph's own shape within a square of ``side`` pixels, as `decode` sees it: ``[H, W, 3]`` uint8.

    Raises:
        UserError: as `read_image`.
    """

    def wanted(width: int, height: int) -> tuple[int, int]:
        scale = side / max(width, height)
        return max(round(width * scale), 1), max(round(height * scale), 1)

    return _read(path, lambda data: _decode(data, MAX_PIXELS, bits, wanted))


def used_bits(data: bytes, max_pixels: int = MAX_PIXELS) -> int | None:
    """Bits, at least 8, that the brightest color of a file of 16 per channel needs, else None; errors of `decode`."""
    with _opened(data, max_pixels) as image:
        if not has_sixteen_bits(image, data):
            return None
        _check_kind(image, data)
        upright = _upright(image)
        # of colors Pillow gives the upper halves, which is all that is asked here
        upper = _gray(image, upright) >> 8 if upright.mode.startswith("I;16") else np.asarray(upright.convert("RGB"))
        return 8 + int(upper.max()).bit_length()


def shrink(data: bytes, side: int, max_pixels: int = MAX_PIXELS) -> np.ndarray | None:
    """A photograph of which the shorter side is ``side`` pixels; upright, RGB; the rest is as in `decode`.

    Returns:
        ``[H, W, 3]`` uint8; None where the shorter side is no longer than that already.

    Raises:
        BadImageError: as `decode`, or the longer side would have more pixels than a JPEG can hold.
    """
    larger = False

    def wanted(width: int, height: int) -> tuple[int, int]:
        nonlocal larger
        shorter = min(width, height)
        larger = shorter > side
        if not larger:
            return width, height
        size = (round(width * side / shorter), round(height * side / shorter))
        if max(size) > JPEG_MAX_SIDE:
            raise BadImageError(f"has {width} x {height} pixels, too long for a JPEG of shorter side {side}")
        return size

    pixels = _decode(data, max_pixels, 16, wanted)
    return pixels if larger else None


def _decode(data: bytes, max_pixels: int, bits: int, wanted: Callable[[int, int], tuple[int, int]]) -> np.ndarray:
    """Strictly decoded, upright and RGB, at the size that ``wanted`` gives for width and height of the file."""
    with _opened(data, max_pixels) as image:
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            return np.asarray(_decode_jpeg(data, image, wanted(*image.size)))
        return np.asarray(_decode_other(data, image, bits, wanted))


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """An image file whose size is within bounds; nothing of its pixels is read."""
    try:
        with _reading():
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        # what the first box of a file says (ISO/IEC 23008-12), whatever its name
        if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS and "HEIF" not in FORMATS:
            raise BadImageError("is a HEIC image, which needs pillow-heif: pip install 'siglip-med[heic]'") from None
        raise BadImageError(f"is not an image of a known format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise BadImageError(f"has more pixels than the limit of {max_pixels:,}") from None
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise BadImageError(f"has {width} x {height} pixels, more than the limit of {max_pixels:,}")
        if min(width, height) < MIN_SIDE:
            raise BadImageError(f"has {width} x {height} pixels, too few for a photograph")
        yield image


@contextmanager
def _reading() -> Iterator[None]:
    """What a reader of files says of bytes that are no valid image, as a BadImageError."""
    try:
        yield
    except UnidentifiedImageError:
        raise
    except _READER_ERRORS as error:
        raise BadImageError(f"is truncated or damaged ({_first_line(error)})") from error


def read_image(path: Path, side: int, max_pixels: int = MAX_PIXELS, bits: int = 16) -> np.ndarray:
    """One file to ``[side, side, 3]`` uint8 RGB; see `decode`. A UserError names the file and the reason."""
    return _read(path, lambda data: decode(data, side, max_pixels, bits))


def _read(path: Path, read: Callable[[bytes], np.ndarray]) -> np.ndarray:
    try:
        return read(read_bytes(path))
    except BadImageError as error:
        raise UserError(f"{path} {error}; replace or remove it") from error


def _decode_jpeg(data: bytes, image: Image.Image, size: tuple[int, int]) -> Image.Image:
    least = {"min_width": SCALE_SLACK * size[0], "min_height": SCALE_SLACK * size[1]}
    with _reading():
        orientation = image.getexif().get(_EXIF_ORIENTATION)
        try:
            pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True, **least)
        except ValueError as error:
            whole = _without_stray_bytes(data, str(error))
            pixels = simplejpeg.decode_jpeg(whole, colorspace="RGB", strict=True, **least)
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    # Turning the small picture costs less than turning the photograph, and is the same: both axes were resized alike.
    return resized.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else resized


def _without_stray_bytes(data: bytes, complaint: str) -> bytes:
    """A JPEG without one or two stray bytes before a marker, which some cameras write; more stay, and are refused."""
    said = re.search(r"(\d+) extraneous bytes before marker 0x(..)", complaint)
    count = int(said[1]) if said else 0
    if said is None or not 1 <= count <= _STRAY_BYTES:
        return data
    if said[2] == "d9":  # the end of the image
        end = data.rfind(b"\xff\xd9")
        return data[: end - count] + data[end:]
    start = 2  # behind the start of the image come segments: marker, length, content
    while start + 4 <= len(data) and data[start] == 0xFF:
        start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return data[:start] + data[start + count :]


def _decode_other(
    data: bytes, image: Image.Image, bits: int, wanted: Callable[[int, int], tuple[int, int]]
) -> Image.Image:
    _check_kind(image, data)
    deep = has_sixteen_bits(image, data)
    upright = _upright(image)
    if upright.mode.startswith("I;16"):
        upright = Image.fromarray(_to_eight_bits(_gray(image, upright)[..., None], bits)[..., 0])
    elif deep and bits < 16:
        upright = Image.fromarray(_to_eight_bits(_whole_colors(data, image, upright), bits))
    rgb = _to_rgb(upright)
    return rgb.resize(wanted(*rgb.size), Image.Resampling.BICUBIC)


def _upright(image: Image.Image) -> Image.Image:
    with _reading():
        image.load()
        return ImageOps.exif_transpose(image)


def has_sixteen_bits(image: Image.Image, data: bytes) -> bool:
    """Whether a file that Pillow opened has 16 bits per channel, by its header."""
    if image.format == "PNG":
        return data[24] == 16
    return image.mode.startswith("I;16") or 16 in _tiff(image, _TIFF_BITS)


def _check_kind(image: Image.Image, data: bytes) -> None:
    """Refuses what the reader would take for something else without a word."""
    if image.format == "PNG":
        with _reading(), Image.open(io.BytesIO(data), formats=("PNG",)) as checked:
            checked.verify()  # the chunks' checksums, which loading the pixels does not look at
    if _SIGNED in _tiff(image, _TIFF_SAMPLE_FORMAT):
        raise BadImageError("has signed pixels, which have no defined range; save 8 or 16 bits without a sign")
    if image.mode.startswith("I;16") and _WHITE_IS_ZERO in _tiff(image, _TIFF_PHOTOMETRIC):
        raise BadImageError("has 16 bits that count from white, which readers take for black; save it as PNG")
    if 16 in _tiff(image, _TIFF_BITS) and _SEPARATE in _tiff(image, _TIFF_PLANES):
        raise BadImageError("has 16-bit colors in separate planes, which readers mix up; save it as PNG")


def _tiff(image: Image.Image, tag: int) -> tuple[int, ...]:
    found = image.tag_v2.get(tag, ()) if image.format == "TIFF" else ()  # type: ignore[attr-defined]
    return found if isinstance(found, tuple) else (found,)


def _gray(image: Image.Image, upright: Image.Image) -> np.ndarray:
    """``[H, W]`` uint16; a TIFF that says that it has 12 bits is brought to 16."""
    declared = _tiff(image, _TIFF_BITS) or (16,)
    return np.asarray(upright).astype(np.uint16) << (16 - declared[0])


def _whole_colors(data: bytes, image: Image.Image, upright: Image.Image) -> np.ndarray:
    """Upright ``[H, W, 3 or 4]`` uint16 colors, of which Pillow drops the lower half; OpenCV reads PNG and TIFF."""
    theirs = np.asarray(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is not None and pixels.dtype == np.uint16 and pixels.ndim == 3 and pixels.shape[2] == theirs.shape[2]:
        deep: np.ndarray = pixels[..., [2, 1, 0, 3][: theirs.shape[2]]]
        # OpenCV has handed out arrays that it never filled (16-bit TIFF with IMREAD_COLOR_RGB: whatever stood in the
        # memory before, another photograph perhaps). Pillow's upper halves must be the same, in the file's own
        # orientation or upright: the two turn different formats by themselves.
        turn = _TRANSPOSE.get(image.getexif().get(_EXIF_ORIENTATION, 1))
        bands = [Image.fromarray(band) for band in np.moveaxis(deep, -1, 0)]
        turned = deep if turn is None else np.stack([np.asarray(band.transpose(turn)) for band in bands], axis=-1)
        for found in (deep, turned):
            if np.array_equal(found >> 8, theirs):
                return found
    raise BadImageError(
        "has 16-bit colors of which the lower half cannot be read; save it as PNG, or with 8 bits, or set "
        "data.image_bits=16"
    )


def _to_eight_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """The upper 8 of the bits that are in use; a BadImageError where a color needs more of them than ``bits``."""
    color, alpha = pixels[..., :3], pixels[..., 3:]
    largest = int(color.max())
    if largest >= 2**bits:
        raise BadImageError(
            f"has values up to {largest:,}, more than the {bits} bits of its data set (data.image_bits)"
        )
    deepest = bits if alpha.size and int(alpha.max()) < 2**bits else 16
    return np.concatenate([color >> (bits - 8), alpha >> (deepest - 8)], axis=-1).astype(np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in ("I", "F"):
        raise BadImageError(f"has 32-bit pixels (mode {image.mode}), which have no defined range; save 8 or 16 bits")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        if not np.asarray(layered.getchannel("A")).any():
            raise BadImageError("is fully transparent, so it shows nothing")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), layered).convert("RGB")
    return image.convert("RGB")


def _first_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.splitlines()[0] if text else type(error).__name__
