import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from siglip_med.core.errors import UserError
from siglip_med.data.images import MIN_SIDE, BadImageError, decode, locate, read_bytes, read_image

LIMIT = 1_000_000


def photograph(width: int = 90, height: int = 70, seed: int = 0) -> np.ndarray:
    """Smooth colors with a dark spot off the center, so that turning and mirroring show."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(90, 220, size=(5, 6, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    image[: height // 4, : width // 3] //= 3
    return image


def encode(image: np.ndarray | Image.Image, form: str, **options: object) -> bytes:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def squared(image: Image.Image | np.ndarray, side: int) -> np.ndarray:
    """The processor's way: no aspect kept, Pillow's bicubic."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)).astype(int)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    return float(np.abs(found.astype(int) - expected).mean())


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_every_format_gives_what_pillow_gives(form: str) -> None:
    data = encode(photograph(), form)
    with Image.open(io.BytesIO(data)) as image:
        expected = squared(image, 64)
    assert difference(decode(data, 64, LIMIT), expected) == 0


def test_equals_the_models_own_processor() -> None:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(size={"height": 64, "width": 64}, do_normalize=False, do_rescale=False)
    data = encode(photograph(120, 100), "JPEG", quality=90)
    expected = processor(Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(decode(data, 64, LIMIT), expected)


def test_a_large_jpeg_is_decoded_small_and_looks_the_same() -> None:
    data = encode(photograph(1200, 900), "JPEG", quality=95)
    assert difference(decode(data, 64, 2_000_000), squared(Image.open(io.BytesIO(data)), 64)) < 1.0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation(orientation: int, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photograph(), form, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = squared(ImageOps.exif_transpose(image), 48)
    assert difference(decode(data, 48, LIMIT), expected) < 0.6


def test_cmyk_becomes_rgb() -> None:
    image = Image.fromarray(photograph())
    found = decode(encode(image.convert("CMYK"), "JPEG", quality=95), 64, LIMIT)
    assert difference(found, squared(image, 64)) < 4


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_upper_eight(form: str) -> None:
    gray = np.linspace(0, 65535, 80 * 60).astype(np.uint16).reshape(60, 80)
    found = decode(encode(Image.fromarray(gray), form), 32, LIMIT)
    assert difference(found, squared((gray >> 8).astype(np.uint8), 32)) == 0
    assert 100 < found.mean() < 155  # Pillow's own conversion clips nearly all of it to white


def test_sixteen_bit_color() -> None:
    import cv2

    color = photograph().astype(np.uint16) * 256 + 77
    ok, data = cv2.imencode(".png", color[..., ::-1])
    assert ok
    assert difference(decode(data.tobytes(), 64, LIMIT), squared(photograph(), 64)) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bit_color_is_upright(orientation: int) -> None:
    import cv2

    turned = Image.fromarray(photograph())
    exif = turned.getexif()
    exif[0x0112] = orientation
    plain = encode(turned, "PNG", exif=exif)
    ok, deep = cv2.imencode(".png", photograph()[..., ::-1].astype(np.uint16) * 257)
    assert ok
    chunk = plain[plain.index(b"eXIf") - 4 :]
    chunk = chunk[: 12 + int.from_bytes(chunk[:4], "big")]
    header = 8 + 25
    data = deep.tobytes()[:header] + chunk + deep.tobytes()[header:]
    assert difference(decode(data, 64, LIMIT), decode(plain, 64, LIMIT)) == 0
    ok, dark = cv2.imencode(".png", photograph()[..., ::-1].astype(np.uint16) << 4)
    data = dark.tobytes()[:header] + chunk + dark.tobytes()[header:]
    assert difference(decode(data, 64, LIMIT, bits=12), decode(plain, 64, LIMIT)) == 0


def test_colors_that_two_readers_read_differently_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    ok, data = cv2.imencode(".tif", photograph().astype(np.uint16) * 256)
    assert ok
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.full((*photograph().shape,), 0x4141, np.uint16))
    assert difference(decode(data.tobytes(), 64, LIMIT), squared(photograph()[..., ::-1].copy(), 64)) == 0
    with pytest.raises(BadImageError, match="lower half cannot be read"):
        decode(data.tobytes(), 64, LIMIT, bits=14)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("color", [False, True])
def test_a_camera_with_fewer_bits_than_its_file_is_as_bright_as_it_was(bits: int, color: bool) -> None:
    import cv2

    pixels = photograph() if color else photograph()[..., 0]
    ok, data = cv2.imencode(".png", (pixels[..., ::-1] if color else pixels).astype(np.uint16) << (bits - 8))
    assert ok
    assert difference(decode(data.tobytes(), 64, LIMIT, bits), squared(pixels, 64)) == 0
    with pytest.raises(BadImageError, match=f"more than the {bits - 2} bits of its data set"):
        decode(data.tobytes(), 64, LIMIT, bits - 2)


def test_nothing_but_transparency_is_no_image() -> None:
    with pytest.raises(BadImageError, match="fully transparent"):
        decode(encode(Image.new("RGBA", (40, 40), (200, 0, 0, 0)), "PNG"), 32, LIMIT)


@pytest.mark.parametrize("place", ["before the end", "between segments"])
def test_two_stray_bytes_in_a_jpeg_cost_nothing(place: str) -> None:
    data = encode(photograph(), "JPEG")
    second = 2 + 2 + int.from_bytes(data[4:6], "big")
    at = len(data) - 2 if place == "before the end" else second
    found = decode(data[:at] + b"\x01\x02" + data[at:], 64, LIMIT)
    np.testing.assert_array_equal(found, decode(data, 64, LIMIT))


def test_thirty_two_bits_have_no_range() -> None:
    data = encode(Image.fromarray(np.ones((40, 40), dtype=np.float32)), "TIFF")
    with pytest.raises(BadImageError, match="no defined range"):
        decode(data, 32, LIMIT)


def test_palette() -> None:
    palette = Image.fromarray(photograph()).quantize(64)
    for form in ("PNG", "GIF"):
        assert difference(decode(encode(palette, form), 64, LIMIT), squared(palette, 64)) == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    image = Image.new("RGBA", (40, 40), (200, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 40, 20))  # black below a transparent upper half
    data = encode(image if mode == "RGBA" else image.convert(mode), "PNG")
    found = decode(data, 40, LIMIT)
    assert (found[:18] == 255).all()
    assert (found[22:] != 255).any()


def test_gray_jpeg_has_three_equal_channels() -> None:
    found = decode(encode(Image.fromarray(photograph()).convert("L"), "JPEG"), 32, LIMIT)
    assert (found == found[..., :1]).all()


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_many(form: str) -> None:
    first, second = (Image.new("RGB", (40, 40), color) for color in ("red", "blue"))
    data = encode(first, form, save_all=True, append_images=[second], **({"lossless": True} if form == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 2
    assert difference(decode(data, 16, LIMIT), squared(first, 16)) == 0


def test_the_first_picture_of_a_phones_multi_picture_file() -> None:
    first, second = Image.fromarray(photograph(seed=1)), Image.fromarray(photograph(seed=2))
    data = encode(first, "MPO", save_all=True, append_images=[second])
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "MPO"
        expected = squared(image, 64)
    assert difference(decode(data, 64, LIMIT), expected) == 0


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_cut_short(form: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(70, 90, 3), dtype=np.uint8)
    data = encode(noise, form)
    with pytest.raises(BadImageError, match="truncated or damaged"):
        decode(data[: int(len(data) * share)], 32, LIMIT)


def test_damage_that_libjpeg_only_remarks_on_is_refused() -> None:
    data = bytearray(encode(photograph(200, 200), "JPEG", quality=95))
    data[len(data) // 2 : len(data) // 2 + 60] = bytes(60)
    Image.open(io.BytesIO(bytes(data))).load()  # Pillow makes gray blocks of it
    with pytest.raises(BadImageError, match="truncated or damaged"):
        decode(bytes(data), 32, LIMIT)


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(encode(photograph(), "PNG"))
    data[data.index(b"IDAT") - 4 + 8 + struct.unpack(">I", data[data.index(b"IDAT") - 4 : data.index(b"IDAT")])[0]] ^= 1
    with pytest.raises(BadImageError, match="truncated or damaged"):
        decode(bytes(data), 32, LIMIT)


@pytest.mark.parametrize("data", [b"hello", b"%PDF-1.7", b"<html>404</html>", b"\xff\xd8\xff", b"\x00" * 999])
def test_not_an_image(data: bytes) -> None:
    with pytest.raises(BadImageError, match=r"not an image|truncated"):
        decode(data, 32, LIMIT)


def test_postscript_is_not_run() -> None:
    with pytest.raises(BadImageError, match="not an image"):
        decode(encode(photograph(), "EPS"), 32, LIMIT)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_too_many_pixels_are_refused_before_decoding(form: str) -> None:
    data = encode(photograph(64, 64), form)
    if form == "PNG":  # claim 20,000 x 20,000 in the header; decoding would need 1.2 GB
        header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + data[24:29]
        data = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    else:
        start = data.index(b"\xff\xc0") + 5
        data = data[:start] + struct.pack(">HH", 20_000, 20_000) + data[start + 4 :]
    with pytest.raises(BadImageError, match=r"more pixels than|pixels, more than"):
        decode(data, 32, 150_000_000)


def test_the_limit_is_inclusive() -> None:
    data = encode(photograph(50, 40), "JPEG")
    assert decode(data, 16, 2000).shape == (16, 16, 3)
    with pytest.raises(BadImageError, match="50 x 40 pixels, more than the limit of 1,999"):
        decode(data, 16, 1999)


def test_a_tracking_pixel_is_no_photograph() -> None:
    with pytest.raises(BadImageError, match="1 x 1 pixels, too few"):
        decode(encode(Image.new("RGB", (1, 1)), "PNG"), 32, LIMIT)
    assert decode(encode(Image.new("RGB", (MIN_SIDE, 99)), "PNG"), 32, LIMIT).shape == (32, 32, 3)


def test_reading_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    for name, reason in {
        "none.jpg": "does not exist",
        "empty.jpg": "0 bytes",
        ".": "not a file",
        "a\0b": "null",
    }.items():
        with pytest.raises(BadImageError, match=reason):
            read_bytes(tmp_path / name)


@pytest.mark.parametrize("image", ["../x.jpg", "a/../../x.jpg", "/etc/passwd", ".", "a/.."])
def test_a_path_that_leaves_the_root(tmp_path: Path, image: str) -> None:
    with pytest.raises(BadImageError, match=r"outside the image folder"):
        locate(tmp_path, image)


def test_a_row_without_a_file_name(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="no file name"):
        locate(tmp_path, "")


def test_a_path_below_the_root(tmp_path: Path) -> None:
    assert locate(tmp_path, "a/../b/c.jpg") == tmp_path / "b" / "c.jpg"
    assert locate(tmp_path, str(tmp_path / "b.jpg")) == tmp_path / "b.jpg"


def test_one_line_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(photograph(), "JPEG")[:500])
    with pytest.raises(UserError) as caught:
        read_image(path, 32)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_heic_is_read_where_its_library_is() -> None:
    pytest.importorskip("pillow_heif")
    assert difference(decode(encode(photograph(), "HEIF", quality=100), 64, LIMIT), squared(photograph(), 64)) < 4
