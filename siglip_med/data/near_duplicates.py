"""Finds photographs that are nearly the same, across splits and across data sets, by perceptual hash."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from siglip_med.core.errors import UserError
from siglip_med.data.images import MAX_PIXELS, BadImageError, decode, read_bytes, used_bits
from siglip_med.data.table import ImageTable

_BLOCK, _SIDE = 2048, 128


def perceptual_hashes(
    table: ImageTable, on_bad_image: Literal["error", "skip"] = "error", workers: int = 8
) -> np.ma.MaskedArray:
    """The 64-bit perceptual hash (pHash, by imagehash) of each image, upright and in gray.

    Args:
        table: images to read.
        on_bad_image: ``skip`` masks what cannot be read, so that it pairs with nothing.
        workers: threads that decode.

    Returns:
        ``[N]`` uint64, masked where there is no image.

    Raises:
        UserError: an image cannot be read and ``on_bad_image`` is ``error``; names file and row.
    """
    rows = table.frame["source_row"].tolist()
    with ThreadPoolExecutor(workers) as pool:
        hashes = list(pool.map(lambda item: _hash(table, *item), zip(table.frame["image"], rows, strict=True)))
    bad = [isinstance(value, UserError) for value in hashes]
    if on_bad_image == "error":
        for value in hashes:
            if isinstance(value, UserError):
                raise value
    values = [0 if isinstance(value, UserError) else value for value in hashes]
    return np.ma.masked_array(np.array(values, dtype=np.uint64), mask=np.array(bad, dtype=bool))


def _hash(table: ImageTable, image: str, row: int) -> int | UserError:
    path = table.root / image
    try:
        data = read_bytes(path)
        square = decode(data, _SIDE, MAX_PIXELS, used_bits(data) or 16)  # a hash knows no exposure
    except BadImageError as error:
        return UserError(f"{table.source}, row {row}: {path} {error}")
    return int(str(imagehash.phash(Image.fromarray(square))), 16)


def near_duplicate_pairs(hashes: np.ndarray, distance: int, other: np.ndarray | None = None) -> np.ndarray:
    """Pairs whose hashes differ in at most ``distance`` bits.

    Args:
        hashes: ``[N]`` uint64; masked ones pair with nothing.
        distance: largest Hamming distance, in bits of 64.
        other: ``[M]`` uint64 of a second table; pairs within the first where None.

    Returns:
        ``[K, 3]`` int64: row, row (of ``other`` where given), distance; sorted, each pair once.
    """
    left, right = np.ma.getdata(hashes), np.ma.getdata(hashes if other is None else other)
    read_left, read_right = ~np.ma.getmaskarray(hashes), ~np.ma.getmaskarray(hashes if other is None else other)
    found = []
    for start in range(0, len(left), _BLOCK):
        rows = slice(start, start + _BLOCK)
        bits = np.bitwise_count(left[rows, None] ^ right[None, :])
        i, j = np.nonzero((bits <= distance) & read_left[rows, None] & read_right[None, :])
        found.append(np.stack([i + start, j, bits[i, j]], axis=1).astype(np.int64))
    pairs = np.concatenate(found) if found else np.zeros((0, 3), dtype=np.int64)
    return pairs if other is not None else pairs[pairs[:, 0] < pairs[:, 1]]


def near_duplicate_links(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Pairs that connect all near-duplicates, without every pair of a heap of equal hashes.

    Of images with one hash each is linked to the first alone; of unequal hashes the first images stand for the others.
    So thousands of copies give thousands of links, not millions, and joining them joins the same groups.

    Returns:
        ``[K, 3]`` int64: row, row, distance.
    """
    rows = np.flatnonzero(~np.ma.getmaskarray(hashes))
    values, first, index = np.unique(np.ma.getdata(hashes)[rows], return_index=True, return_inverse=True)
    heads = rows[first]
    equal = np.stack([heads[index], rows, np.zeros(len(rows), dtype=np.int64)], axis=1)
    near = near_duplicate_pairs(values, distance)
    near[:, :2] = np.sort(heads[near[:, :2]], axis=1)
    return np.concatenate([equal[equal[:, 0] != equal[:, 1]], near])


def duplicates_across_splits(table: ImageTable, hashes: np.ndarray, parts: np.ndarray, distance: int) -> pd.DataFrame:
    """Near-duplicates that a split separates: image_a, split_a, image_b, split_b, distance in bits."""
    pairs = near_duplicate_pairs(hashes, distance)
    pairs = pairs[parts[pairs[:, 0]] != parts[pairs[:, 1]]]
    frame = _report(table, table, pairs)
    frame.insert(1, "split_a", parts[pairs[:, 0]])
    frame.insert(3, "split_b", parts[pairs[:, 1]])
    return frame


def duplicates_between(
    table: ImageTable, hashes: np.ndarray, other: ImageTable, other_hashes: np.ndarray, distance: int
) -> pd.DataFrame:
    """Near-duplicates that two data sets share, a leak between them: image_a (of ``table``), image_b, distance."""
    return _report(table, other, near_duplicate_pairs(hashes, distance, other_hashes))


def _report(left: ImageTable, right: ImageTable, pairs: np.ndarray) -> pd.DataFrame:
    columns = {
        "image_a": left.frame["image"].to_numpy()[pairs[:, 0]],
        "image_b": right.frame["image"].to_numpy()[pairs[:, 1]],
        "distance": pairs[:, 2],
    }
    return pd.DataFrame(columns)


def group_near_duplicates(table: ImageTable, hashes: np.ndarray, distance: int) -> ImageTable:
    """Merges the cases of near-duplicates, so that no split separates them.

    A merged case bears the name of its first member in alphabetical order.
    """
    pairs = near_duplicate_links(hashes, distance)
    merged = merge_groups(table.cases, pairs[:, :2])
    before, after = len(np.unique(table.cases)), len(np.unique(merged))
    note = f"{len(pairs):,} links of near-duplicates (up to {distance} of 64 bits) join {before:,} cases to {after:,}"
    return replace(table, frame=table.frame.assign(case=merged.astype(object))).with_notes(note)


def merge_groups(groups: Sequence[str] | np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Joins ``[N]`` groups that a pair of rows (``[K, 2]``) connects, directly or through others.

    Returns:
        ``[N]`` str: the alphabetically first name of each joined group.
    """
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    edges = coo_array((np.ones(len(pairs)), (index[pairs[:, 0]], index[pairs[:, 1]])), shape=(len(names), len(names)))
    _, component = connected_components(edges, directed=False)
    first = np.full(component.max() + 1, len(names))
    np.minimum.at(first, component, np.arange(len(names)))
    return names[first[component]][index]
