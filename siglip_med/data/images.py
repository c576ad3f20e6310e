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
from collections.abc import Callable
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
# What the readers raise on bytes that are no valid image, beside OSError and ValueError.
_DECODER_ERRORS = (
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


def decode(data: bytes, side: int, max_pixels: int) -> np.ndarray:
    """Pixels of an encoded image, resized to a square without keeping the aspect, as SigLIP's processor does.

    EXIF orientation is applied; of an animation or a multi-page file the first frame is taken; transparency is laid
    over white; of 16 bits per channel the upper 8 that are in use are taken (12-bit cameras leave the uppermost four
    empty); CMYK becomes RGB; embedded color profiles are ignored, as in
    the processor. The resize is Pillow's antialiased bicubic, the processor's own: the result equals the
    processor's pixel by pixel unless a JPEG is over `SCALE_SLACK` times as large as ``side``, in which case
    libjpeg decodes it at a smaller scale first (mean difference about 0.5 of 255).

    Returns:
        ``[side, side, 3]`` uint8, RGB.

    Raises:
        BadImageError: not an image, truncated, damaged, too large, too small, or of a pixel type without a range.
    """
    return _decode(data, max_pixels, lambda width, height: (side, side))


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

    pixels = _decode(data, max_pixels, wanted)
    return pixels if larger else None


def _decode(data: bytes, max_pixels: int, wanted: Callable[[int, int], tuple[int, int]]) -> np.ndarray:
    """Strictly decoded, upright and RGB, at the size that ``wanted`` gives for width and height of the file."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, max_pixels)
            if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
                return np.asarray(_decode_jpeg(data, image, wanted(*image.size)))
            return np.asarray(_decode_other(data, image, wanted))
    except BadImageError:
        raise
    except UnidentifiedImageError:
        if _is_heic(data) and "HEIF" not in FORMATS:
            raise BadImageError("is a HEIC image, which needs pillow-heif: pip install 'siglip-med[heic]'") from None
        raise BadImageError(f"is not an image of a known format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise BadImageError(f"has more pixels than the limit of {max_pixels:,}") from None
    except _DECODER_ERRORS as error:
        raise BadImageError(f"is truncated or damaged ({_first_line(error)})") from error


def read_image(path: Path, side: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """One file to ``[side, side, 3]`` uint8 RGB; see `decode`. A UserError names the file and the reason."""
    try:
        return decode(read_bytes(path), side, max_pixels)
    except BadImageError as error:
        raise UserError(f"{path} {error}; replace or remove it") from error


def _is_heic(data: bytes) -> bool:
    """Whether a file says in its first box that it is HEIC (ISO/IEC 23008-12), whatever its name."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise BadImageError(f"has {width} x {height} pixels, more than the limit of {max_pixels:,}")
    if min(width, height) < MIN_SIDE:
        raise BadImageError(f"has {width} x {height} pixels, too few for a photograph")


def _decode_jpeg(data: bytes, image: Image.Image, size: tuple[int, int]) -> Image.Image:
    orientation = image.getexif().get(_EXIF_ORIENTATION)
    least = {"min_width": SCALE_SLACK * size[0], "min_height": SCALE_SLACK * size[1]}
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


def _decode_other(data: bytes, image: Image.Image, wanted: Callable[[int, int], tuple[int, int]]) -> Image.Image:
    if image.format == "PNG":
        with Image.open(io.BytesIO(data), formats=("PNG",)) as checked:
            checked.verify()  # the chunks' checksums, which loading the pixels does not look at
    deep = _sixteen_bits(data, image)
    if deep is not None:
        upright = deep
    else:
        image.load()
        upright = _to_rgb(ImageOps.exif_transpose(image))
    return upright.resize(wanted(*upright.size), Image.Resampling.BICUBIC)


def _sixteen_bits(data: bytes, image: Image.Image) -> Image.Image | None:
    """An upright 8-bit image of a color PNG or TIFF with 16 bits per channel, of which Pillow drops the lower half."""
    if image.format not in ("PNG", "TIFF") or image.mode != "RGB":
        return None
    read = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), read)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        return None
    deep: np.ndarray = pixels[..., ::-1]
    # OpenCV has handed out arrays that it never filled (16-bit TIFF with IMREAD_COLOR_RGB: whatever stood in the memory
    # before, another photograph perhaps). Pillow reads the upper halves by itself, and they must be the same. It turns
    # a TIFF upright while it loads it, and so may OpenCV.
    turn = _TRANSPOSE.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    image.load()
    upright = np.asarray(ImageOps.exif_transpose(image))
    upper, found = Image.fromarray((deep >> 8).astype(np.uint8)), Image.fromarray(_to_eight_bits(deep))
    if np.array_equal(upright, np.asarray(upper)):
        return found
    if turn is not None and np.array_equal(upright, np.asarray(upper.transpose(turn))):
        return found.transpose(turn)
    raise BadImageError("has 16-bit colors that two readers read differently; save it as PNG, or with 8 bits")


def _to_eight_bits(pixels: np.ndarray) -> np.ndarray:
    """The upper 8 of the bits that uint16 pixels use: 10, 12, 14 or 16, the fewest that hold the brightest."""
    used = next(bits for bits in (10, 12, 14, 16) if int(pixels.max()) < 2**bits)
    return (pixels >> (used - 8)).astype(np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 and would turn a 16-bit photograph white.
        return Image.fromarray(_to_eight_bits(np.asarray(image).astype(np.uint16))).convert("RGB")
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
