"""Each kind of image file is right or refused in one line; a data set has one rule for 16 bits; docs say which."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from siglip_med.data.bit_depth import bits_in_use
from siglip_med.data.images import BadImageError, decode, thumbnail
from tests.data.matrix import RGB8, SIDE, Cell, cells, deep, tiff

LIMIT = 10**6
CELLS = list(cells())


def outcome(cell: Cell) -> str:
    """``right``, the reason of a refusal, or how far off it is."""
    try:
        found = decode(cell.data, SIDE, LIMIT, cell.bits)
    except BadImageError as error:
        return f"refused: {error}"
    off = float(np.abs(found.astype(int) - cell.right.astype(int)).mean())
    return "right" if off <= cell.tolerance else f"WRONG by {off:.1f}"


def table() -> str:
    """What docs/images.md prints: the kinds that are refused, by reason."""
    refused: dict[str, list[str]] = {}
    # whether Pillow reads Zstandard is its builder's choice
    for cell in (cell for cell in CELLS if "zstd" not in cell.kind):
        why = outcome(cell).partition(" (")[0].partition(";")[0]
        # byte order and compression do not matter to any of them
        kind = " ".join(re.sub(r" [<>] \S+", "", cell.kind).split())
        if why != "right" and kind not in refused.setdefault(why.removeprefix("refused: "), []):
            refused[why.removeprefix("refused: ")].append(kind)
    return "".join(f"| {', '.join(kinds)} | {why} |\n" for why, kinds in refused.items())


def test_every_kind_of_file_is_right_or_refused() -> None:
    found = {cell.kind: outcome(cell) for cell in CELLS}
    assert {kind: why for kind, why in found.items() if why.startswith("WRONG") or "\n" in why} == {}
    kinds = {kind.split()[0] for kind, why in found.items() if why == "right"}
    assert kinds == {"TIFF", "PNG", "JPEG", "AVIF", "WebP", "BMP", "GIF", "PNM"}


def test_what_is_usual_is_not_refused() -> None:
    usual = {
        "TIFF < lzw 16 bits, RGB", "TIFF > plain 16 bits, gray", "PNG 16 bits, RGBA", "PNG gray 12 in 16 bits",
        "JPEG CMYK", "JPEG 2000 jp2 16 bits, gray", "AVIF 10 bits", "TIFF < zlib 8 bits, RGB in planes",
    }  # fmt: skip
    assert {cell.kind: outcome(cell) for cell in CELLS if cell.kind in usual} == dict.fromkeys(usual, "right")


def test_the_same_file_gives_the_same_bytes_in_another_process_and_on_dirty_memory(tmp_path: Path) -> None:
    chosen = [CELLS[i] for i in np.random.default_rng(0).permutation(len(CELLS))[:200]]
    for number, cell in enumerate(chosen):
        (tmp_path / f"{number:03d}-{cell.bits}").write_bytes(cell.data)
    code = (
        "import sys, zlib, pathlib\nfrom siglip_med.data.images import BadImageError, decode\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        f"    try: print(zlib.crc32(decode(path.read_bytes(), {SIDE}, {LIMIT}, int(path.name[4:])).tobytes()))\n"
        "    except BadImageError: print('refused')\n"
    )
    run = [sys.executable, "-c", code, str(tmp_path)]
    first, second = (
        subprocess.run(run, capture_output=True, text=True, check=True, env={"MALLOC_PERTURB_": poison}).stdout
        for poison in ("65", "170")
    )
    assert len(first.split()) == len(chosen)
    assert first == second
    assert first.count("refused") < len(chosen) / 2


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_brightest_file_of_a_set_decides_and_a_dark_one_stays_dark(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    bright, dark = tmp_path / "bright.tif", tmp_path / "dark.tif"
    bright.write_bytes(tiff(deep(bits).astype(np.uint16), photometric="rgb"))
    dark.write_bytes(tiff((deep(bits) // 100).astype(np.uint16), photometric="rgb"))
    paths = [bright, dark, tmp_path / "missing.png"]
    found = bits_in_use(paths, tmp_path / "bits.json")
    assert (found.bits, found.files) == (bits, 2)
    assert found.account() == [
        f"16 bits per channel: 2 images, no color above {top:,}: the upper 8 of {bits} bits are taken (data.image_bits)"
    ]
    shown = [decode(path.read_bytes(), SIDE, LIMIT, found.bits).mean() for path in (bright, dark)]
    assert shown[0] == pytest.approx(RGB8.mean(), abs=1)
    assert shown[1] < 3  # a rule of its own would show it as bright as the other
    assert bits_in_use(paths, tmp_path / "bits.json", wanted=16).bits == 16


def test_bits_are_looked_at_once_and_again_when_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, memory = tmp_path / "a.tif", tmp_path / "bits.json"
    path.write_bytes(tiff(deep(12), photometric="rgb"))
    assert bits_in_use([path], memory).bits == 12
    with monkeypatch.context() as patched:
        patched.setattr("siglip_med.data.bit_depth.used_bits", lambda data: pytest.fail("it was looked at again"))
        assert bits_in_use([path], memory).bits == 12
    path.write_bytes(tiff(deep(14), photometric="rgb", description="longer"))
    assert bits_in_use([path], memory).bits == 14
    assert bits_in_use([tmp_path / "photograph.jpg"], memory).account() == []


def test_a_thumbnail_is_upright_in_its_own_shape_and_reads_what_training_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(deep(12)[:16], photometric="rgb", extratags=[(274, "H", 1, 6, True)]))
    found = thumbnail(path, 20, bits=12)
    assert found.shape == (20, 10, 3)
    assert found.mean() == pytest.approx(RGB8[:16].mean(), abs=2)


def test_the_docs_print_the_table() -> None:
    docs = Path(__file__).parents[2] / "docs" / "images.md"
    assert table() in docs.read_text(encoding="utf-8")


if __name__ == "__main__":
    print(table())
