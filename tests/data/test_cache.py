import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from siglip_med.core.errors import UserError
from siglip_med.data import cache as cache_module
from siglip_med.data.cache import PixelCache
from siglip_med.data.images import decode
from tests.data.test_images import encode, photograph

SIDE = 24
LIMIT = 1_000_000


def write_photographs(folder: Path, count: int, form: str = "PNG") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.{form.lower()}" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(encode(photograph(40, 30, seed=i), form))
    return paths


def expected(paths: list[Path]) -> np.ndarray:
    return np.stack([decode(path.read_bytes(), SIDE, LIMIT) for path in paths])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each image that the cache decodes."""
    calls: list[int] = []

    def counting(data: bytes, side: int, max_pixels: int, bits: int) -> np.ndarray:
        calls.append(len(data))
        return decode(data, side, max_pixels, bits)

    monkeypatch.setattr(cache_module, "decode", counting)
    return calls


def test_gives_what_decoding_gives(tmp_path: Path) -> None:
    paths = write_photographs(tmp_path / "images", 7)
    store = PixelCache(tmp_path / "cache", SIDE, LIMIT)
    records, reasons = store.add(paths, workers=3)
    assert reasons == {}
    assert sorted(records) == list(range(7))
    np.testing.assert_array_equal(store.read(records), expected(paths))
    np.testing.assert_array_equal(store.read(records[[3, 3, 1]]), expected([paths[3], paths[3], paths[1]]))


def test_decodes_each_content_once(tmp_path: Path, decoded: list[int]) -> None:
    paths = write_photographs(tmp_path / "images", 5)
    for _ in range(2):
        PixelCache(tmp_path / "cache", SIDE, LIMIT).add(paths)
    assert len(decoded) == 5
    moved = Path(shutil.copytree(tmp_path / "images", tmp_path / "elsewhere"))
    store = PixelCache(tmp_path / "cache", SIDE, LIMIT)
    records, _ = store.add([moved / path.name for path in paths])
    assert len(decoded) == 5
    np.testing.assert_array_equal(store.read(records), expected(paths))


def test_files_of_one_content_that_are_new_together_have_one_slot(tmp_path: Path) -> None:
    paths = write_photographs(tmp_path / "images", 3)
    paths[1].write_bytes(paths[0].read_bytes())
    store = PixelCache(tmp_path / "cache", SIDE, LIMIT)
    records, _ = store.add(paths, workers=3)
    assert records.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(store.read(records), expected(paths))
    again, _ = PixelCache(tmp_path / "cache", SIDE, LIMIT).add(paths)
    assert again.tolist() == [0, 0, 1]


def test_a_changed_file_is_decoded_again(tmp_path: Path, decoded: list[int]) -> None:
    paths = write_photographs(tmp_path / "images", 3)
    store = PixelCache(tmp_path / "cache", SIDE, LIMIT)
    store.add(paths)
    paths[1].write_bytes(encode(photograph(40, 30, seed=99), "PNG"))
    records, _ = store.add(paths)
    assert len(decoded) == 4
    np.testing.assert_array_equal(store.read(records), expected(paths))


def test_same_size_and_new_time_is_decoded_again(tmp_path: Path) -> None:
    paths = write_photographs(tmp_path / "images", 2, "BMP")  # uncompressed: equal sizes
    store = PixelCache(tmp_path / "cache", SIDE, LIMIT)
    store.add(paths)
    status = paths[0].stat()
    paths[0].write_bytes(paths[1].read_bytes())
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    records, _ = store.add(paths)
    assert records[0] == records[1]
    np.testing.assert_array_equal(store.read(records), expected(paths))


def test_settings_do_not_share_a_store(tmp_path: Path, decoded: list[int]) -> None:
    paths = write_photographs(tmp_path / "images", 2)
    for side, limit, bits in ((SIDE, LIMIT, 16), (SIDE + 1, LIMIT, 16), (SIDE, LIMIT - 1, 16), (SIDE, LIMIT, 12)):
        store = PixelCache(tmp_path / "cache", side, limit, bits)
        records, _ = store.add(paths)
        assert store.read(records).shape == (2, side, side, 3)
    assert len(decoded) == 8


def test_bad_files_have_no_slot_and_a_reason(tmp_path: Path) -> None:
    paths = write_photographs(tmp_path / "images", 4)
    paths[1].write_bytes(b"")
    paths[2].unlink()
    store = PixelCache(tmp_path / "cache", SIDE, LIMIT)
    for _ in range(2):  # the second time nothing is left to decode but the bad ones
        records, reasons = store.add(paths)
        assert (records >= 0).tolist() == [True, False, False, True]
        assert reasons == {1: "is empty (0 bytes)", 2: "does not exist"}
    paths[1].write_bytes(encode(photograph(), "PNG"))
    records, reasons = store.add(paths)
    assert reasons == {2: "does not exist"}
    np.testing.assert_array_equal(store.read(records[[0, 1, 3]]), expected([paths[0], paths[1], paths[3]]))


def test_a_reader_goes_on_while_the_store_grows(tmp_path: Path) -> None:
    paths = write_photographs(tmp_path / "images", 6)
    reader = PixelCache(tmp_path / "cache", SIDE, LIMIT)
    records, _ = reader.add(paths[:2])
    before = reader.read(records)
    all_slots, _ = PixelCache(tmp_path / "cache", SIDE, LIMIT).add(paths)
    np.testing.assert_array_equal(reader.read(records), before)
    found, _ = reader.add(paths)
    np.testing.assert_array_equal(found, all_slots)
    np.testing.assert_array_equal(reader.read(found), expected(paths))


def test_pickles_without_its_pixels(tmp_path: Path) -> None:
    paths = write_photographs(tmp_path / "images", 3)
    store = PixelCache(tmp_path / "cache", SIDE, LIMIT)
    records, _ = store.add(paths)
    store.read(records)
    data = pickle.dumps(store)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).read(records), expected(paths))


def _add_repeatedly(folder: Path, paths: list[Path], chunk: int, delay: float) -> None:
    cache_module.CHUNK = chunk
    original = cache_module.decode

    def slow(data: bytes, side: int, max_pixels: int, bits: int) -> np.ndarray:
        time.sleep(delay)
        return original(data, side, max_pixels, bits)

    cache_module.decode = slow
    PixelCache(folder, SIDE, LIMIT).add(paths)


def _start(*args: object) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=_add_repeatedly, args=args)
    process.start()
    return process


def test_several_processes_fill_one_store(tmp_path: Path) -> None:
    paths = write_photographs(tmp_path / "images", 40)
    parts = [paths[:25], paths[15:], paths[::-1], paths[5:30]]
    processes = [_start(tmp_path / "cache", part, 3, 0.0) for part in parts]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    store = PixelCache(tmp_path / "cache", SIDE, LIMIT)
    records, reasons = store.add(paths)
    assert reasons == {}
    assert sorted(records) == list(range(40))
    np.testing.assert_array_equal(store.read(records), expected(paths))


def test_a_killed_run_loses_one_chunk_at_most(tmp_path: Path, decoded: list[int]) -> None:
    paths = write_photographs(tmp_path / "images", 60)
    process = _start(tmp_path / "cache", paths, 4, 0.02)
    index = tmp_path / "cache" / PixelCache(tmp_path / "cache", SIDE, LIMIT).folder.name / "index.json"
    deadline = time.monotonic() + 30
    while not index.exists() or len(json.loads(index.read_text())["records"]) < 8:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    kept = len(json.loads(index.read_text())["records"])
    assert 8 <= kept < 60
    with (index.parent / "pixels.bin").open("ab") as file:
        file.write(b"half a square")  # what a write that was cut off may leave
    store = PixelCache(tmp_path / "cache", SIDE, LIMIT)
    records, _ = store.add(paths)
    assert len(decoded) == 60 - kept
    np.testing.assert_array_equal(store.read(records), expected(paths))


@pytest.mark.parametrize("damage", ["not json", "{}", '{"records": 3, "files": {}}', None])
def test_a_damaged_store_is_built_anew(tmp_path: Path, damage: str | None, decoded: list[int]) -> None:
    paths = write_photographs(tmp_path / "images", 3)
    store = PixelCache(tmp_path / "cache", SIDE, LIMIT)
    store.add(paths)
    if damage is None:
        (store.folder / "pixels.bin").write_bytes(b"short")
    else:
        (store.folder / "index.json").write_text(damage)
    records, _ = store.add(paths)
    assert len(decoded) == 6
    np.testing.assert_array_equal(store.read(records), expected(paths))


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_photographs(tmp_path / "images", 3)
    usage = shutil.disk_usage(tmp_path)._replace(free=SIDE * SIDE * 3 * 3 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    store = PixelCache(tmp_path / "cache", SIDE, LIMIT)
    with pytest.raises(UserError, match=r"data\.cache_dir"):
        store.add(paths)
    assert not (store.folder / "pixels.bin").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="cannot write the image cache"):
        PixelCache(tmp_path / "cache", SIDE, LIMIT).add(write_photographs(tmp_path / "images", 1))
