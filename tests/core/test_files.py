"""Files are written whole, or not at all."""

import csv
import errno
import os
import stat
from pathlib import Path
from typing import IO

import pytest

from siglip_med.core.errors import UserError
from siglip_med.core.files import append_text, write_bytes, write_csv, write_json, write_text, write_whole


def test_the_content_arrives_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_text_keeps_its_line_ends_and_letters(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Größe\r\n漢字\n")
    assert (tmp_path / "a.txt").read_bytes() == "Größe\r\n漢字\n".encode()


def test_a_table_reads_back_as_it_was(tmp_path: Path) -> None:
    rows = [["a,b", 'say "x"', "ü"], ["", "two\nlines", "3"]]
    write_csv(tmp_path / "a.csv", ["x", "y", "z"], rows)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["x", "y", "z"], *rows]


def test_json_holds_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, None]})
    assert (tmp_path / "a.json").read_text() == '{\n  "x": [\n    1,\n    null\n  ]\n}'
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_a_writer_that_fails_halfway_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"earlier")

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_no_reader_sees_the_file_before_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    seen: list[bool] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append(path.exists()), real(handle)))
    write_bytes(path, b"x")
    assert seen == [False]


def test_a_full_disk_is_one_line_that_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_bytes(tmp_path / "a", b"earlier")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"/a: cannot be written \(No space left on device\)"):
        write_bytes(tmp_path / "a", b"later")
    assert (tmp_path / "a").read_bytes() == b"earlier"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_one_line_that_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"file/a: cannot be written"):
        write_bytes(tmp_path / "file" / "a", b"")


def test_a_log_grows_and_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    append_text(tmp_path / "log", "ä\n")
    append_text(tmp_path / "log", "b\n")
    assert (tmp_path / "log").read_bytes() == "ä\nb\n".encode()
    with pytest.raises(UserError, match=r"none/log: cannot be written \(No such file"):
        append_text(tmp_path / "none" / "log", "x")


def test_a_name_of_full_length_can_be_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("n" * 255), b"x")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"x"


def test_no_module_writes_a_temporary_file_of_its_own() -> None:
    """One writer for all. Folders are made whole by their own makers."""
    package = Path(__file__).parents[2] / "siglip_med"
    own = {"core/files.py"}
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.relative_to(package).as_posix() not in own:
            assert ".replace(path)" not in text, path
            assert "NamedTemporaryFile" not in text, path
            assert ".write_text(" not in text or path.parent.name in {"export", "synthetic"}, path
