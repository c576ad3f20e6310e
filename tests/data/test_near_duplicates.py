from pathlib import Path

import imagehash
import networkx
import numpy as np
import pytest
from PIL import Image, ImageFilter

from siglip_med.core.errors import UserError
from siglip_med.data.near_duplicates import (
    duplicates_across_splits,
    duplicates_between,
    group_near_duplicates,
    merge_groups,
    near_duplicate_links,
    near_duplicate_pairs,
    perceptual_hashes,
)
from siglip_med.data.table import TableRow, build_table
from siglip_med.sources import CsvSource
from tests.data.tables import write


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, size=(6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four pictures; 1 is 0 compressed and smaller, 3 is 2 slightly blurred and turned by its EXIF tag."""
    picture(0).save(tmp_path / "0.png")
    picture(0).resize((80, 60)).save(tmp_path / "1.jpg", quality=60)
    picture(1).save(tmp_path / "2.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    picture(1).filter(ImageFilter.GaussianBlur(1)).rotate(90, expand=True).save(tmp_path / "3.jpg", exif=exif)
    picture(2).save(tmp_path / "4.png")
    return tmp_path


def table_of(folder: Path, *images: str):
    rows = [TableRow(image, {"Acne": 1.0}, number) for number, image in enumerate(images, start=1)]
    return build_table(rows, root=folder, source="t.csv")


ALL = ("0.png", "1.jpg", "2.png", "3.jpg", "4.png")


def test_the_same_picture_compressed_resized_blurred_or_turned_is_found(folder):
    table = table_of(folder, *ALL)
    hashes = perceptual_hashes(table)
    assert hashes.dtype == np.uint64
    assert near_duplicate_pairs(hashes, 6)[:, :2].tolist() == [[0, 1], [2, 3]]
    grouped = group_near_duplicates(table, hashes, 6)
    assert grouped.cases.tolist() == ["0.png", "0.png", "2.png", "2.png", "4.png"]
    assert "2 links of near-duplicates" in grouped.notes[-1]
    assert "join 5 cases to 3" in grouped.notes[-1]
    assert table.cases.tolist() == list(ALL)


def test_pairs_against_the_librarys_own_distance():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, size=40, dtype=np.uint64)
    hashes[20:] = hashes[:20] ^ (np.uint64(1) << rng.integers(0, 64, size=20, dtype=np.uint64))
    as_images = [imagehash.hex_to_hash(f"{value:016x}") for value in hashes.tolist()]
    for distance in (0, 1, 2, 25):
        expected = [
            [i, j, as_images[i] - as_images[j]]
            for i in range(40)
            for j in range(i + 1, 40)
            if as_images[i] - as_images[j] <= distance
        ]
        assert near_duplicate_pairs(hashes, distance).tolist() == expected
    between = near_duplicate_pairs(hashes[:20], 1, hashes[20:])
    assert between.tolist() == [[i, i, 1] for i in range(20)]
    assert near_duplicate_pairs(np.zeros(0, dtype=np.uint64), 4).shape == (0, 3)


def test_pairs_across_blocks(monkeypatch):
    hashes = np.arange(50, dtype=np.uint64)
    whole = near_duplicate_pairs(hashes, 1)
    monkeypatch.setattr("siglip_med.data.near_duplicates._BLOCK", 7)
    np.testing.assert_array_equal(near_duplicate_pairs(hashes, 1), whole)


def test_reports_name_the_pairs_that_a_split_separates(folder):
    table = table_of(folder, *ALL)
    hashes = perceptual_hashes(table)
    parts = np.array(["train", "test", "train", "train", "val"])
    found = duplicates_across_splits(table, hashes, parts, 6)
    assert found[["image_a", "split_a", "image_b", "split_b"]].to_numpy().tolist() == [
        ["0.png", "train", "1.jpg", "test"]
    ]
    left, right = table_of(folder, "1.jpg", "4.png"), table_of(folder, "2.png", "0.png")
    shared_images = duplicates_between(left, perceptual_hashes(left), right, perceptual_hashes(right), 6)
    assert shared_images[["image_a", "image_b"]].to_numpy().tolist() == [["1.jpg", "0.png"]]
    assert (shared_images["distance"] <= 6).all()


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_pictures_of_sixteen_bits_are_no_copies_of_each_other_but_of_their_eight_bits(folder, bits):
    for seed in range(3):
        gray = np.asarray(picture(seed).convert("L")).astype(np.uint16)
        Image.fromarray(gray << (bits - 8)).save(folder / f"deep{seed}.png")
        Image.fromarray(gray.astype(np.uint8)).save(folder / f"flat{seed}.png")
    deep, flat = ([f"{kind}{seed}.png" for seed in range(3)] for kind in ("deep", "flat"))
    hashes = perceptual_hashes(table_of(folder, *deep, *flat))
    assert near_duplicate_pairs(hashes, 8)[:, :2].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_merged_groups_against_networkx():
    rng = np.random.default_rng(3)
    groups = np.array([f"g{number}" for number in rng.integers(0, 25, size=60)])
    pairs = rng.integers(0, 60, size=(12, 2))
    graph = networkx.Graph()
    graph.add_nodes_from(groups.tolist())
    graph.add_edges_from((groups[i], groups[j]) for i, j in pairs)
    name = {member: min(part) for part in networkx.connected_components(graph) for member in part}
    assert merge_groups(groups, pairs).tolist() == [name[group] for group in groups]
    assert merge_groups(groups, np.zeros((0, 2), dtype=int)).tolist() == groups.tolist()


def test_a_file_that_is_no_image_is_named(folder):
    write(folder / "bad.jpg", "not an image")
    with pytest.raises(UserError, match=r"^t\.csv, row 2: .*bad\.jpg is not an image of a known format"):
        perceptual_hashes(table_of(folder, "0.png", "bad.jpg"))
    with pytest.raises(UserError, match=r"row 1: .*gone\.jpg"):
        perceptual_hashes(table_of(folder, "gone.jpg"))


def test_files_that_are_skipped_pair_with_nothing(folder):
    write(folder / "bad.jpg", "not an image")
    write(folder / "worse.jpg", "")
    table = table_of(folder, "bad.jpg", "0.png", "worse.jpg", "1.jpg", "gone.jpg")
    hashes = perceptual_hashes(table, on_bad_image="skip")
    assert np.ma.getmaskarray(hashes).tolist() == [True, False, True, False, True]
    assert near_duplicate_pairs(hashes, 32)[:, :2].tolist() == [[1, 3]]
    assert near_duplicate_pairs(hashes, 6, hashes[:2])[:, :2].tolist() == [[1, 1], [3, 1]]
    assert group_near_duplicates(table, hashes, 6).cases.tolist() == [
        *("bad.jpg", "0.png", "worse.jpg", "0.png", "gone.jpg")
    ]


def test_a_source_groups_on_request(folder):
    write(folder / "labels.csv", "image,dx\n" + "".join(f"{image},Acne\n" for image in ALL))
    plain = CsvSource(root=str(folder), condition_column="dx").load()
    grouped = CsvSource(root=str(folder), condition_column="dx", near_duplicate_distance=6).load()
    assert len(set(plain.cases)) == 5
    assert len(set(grouped.cases)) == 3


def test_links_join_the_same_groups_as_all_pairs_and_are_few():
    rng = np.random.default_rng(3)
    hashes = rng.integers(0, 2**63, size=30, dtype=np.uint64)[rng.integers(0, 30, size=200)]
    hashes[:50] ^= np.uint64(1) << rng.integers(0, 60, size=50).astype(np.uint64)
    masked = np.ma.masked_array(hashes, mask=rng.random(200) < 0.1)
    names = np.array([f"{i:03d}" for i in range(200)])
    links, pairs = near_duplicate_links(masked, 4), near_duplicate_pairs(masked, 4)
    np.testing.assert_array_equal(merge_groups(names, links[:, :2]), merge_groups(names, pairs[:, :2]))
    copies = np.zeros(5000, dtype=np.uint64)
    assert len(near_duplicate_links(copies, 4)) == 4999
    assert len(links) < len(pairs)
