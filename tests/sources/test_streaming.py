"""Sharded sets streamed into a folder: the table of a CSV of the same, interrupted and resumed, refused where wrong."""

import contextlib
import csv
import functools
import http.server
import io
import json
import tarfile
import threading
from dataclasses import replace

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image, ImageOps

from siglip_med.commands import train
from siglip_med.core.errors import UserError
from siglip_med.data.splitting.split import GroupStratifiedSplitter, make_split
from siglip_med.sources import HuggingFaceSource, export, huggingface_rows
from siglip_med.sources.huggingface_rows import expand
from tests.short_runs import two_steps
from tests.sources.streams import (
    COUNT,
    SIDE,
    Photograph,
    drawing,
    encoded,
    files_of,
    from_parquet,
    from_tars,
    loaded,
    write_tar,
)

datasets = pytest.importorskip("datasets")


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_the_table_and_the_split_are_those_of_the_same_photographs_in_a_csv(
    kind, request, plain, photographs, tmp_path
):
    make = {"tars": from_tars, "parquet": from_parquet}[kind]
    table, wanted = loaded(make(request.getfixturevalue(kind), tmp_path)), loaded(plain)
    # files that were given a split say so, files that were not do not
    assert set(table.frame["source_split"]) == {"" if kind == "tars" else "test"}
    others = ["image", "image_id", "source_split"]
    assert table.frame.drop(columns=others).equals(wanted.frame.drop(columns=others))
    assert table.conditions == wanted.conditions
    np.testing.assert_array_equal(table.labels, wanted.labels)
    assert [(tmp_path / path).read_bytes() for path in table.frame["image"]] == [item.data for item in photographs]
    splitter = GroupStratifiedSplitter(ignore_given=True)
    assert make_split(table, splitter, 1).parts.tolist() == make_split(wanted, splitter, 1).parts.tolist()
    with (tmp_path / "shards.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["rows"]) for row in rows] == [22, 22, 22]
    assert [row["shard"].rpartition("-")[2][:3] for row in rows] == ["000", "001", "002"]


def test_copies_are_scaled_to_the_shorter_side_and_smaller_ones_stay(tars, photographs, tmp_path):
    table = loaded(from_tars(tars, tmp_path, side=SIDE))
    small = 0
    for item, path in zip(photographs, table.frame["image"], strict=True):
        before = Image.open(io.BytesIO(item.data)).convert("RGB")
        if min(before.size) <= SIDE:
            small += 1
            assert (tmp_path / path).read_bytes() == item.data
            continue
        after = Image.open(tmp_path / path)
        assert (after.format, min(after.size)) == ("JPEG", SIDE)
        assert after.size == ((64, 48) if before.width > before.height else (48, 64))
        reference = np.asarray(before.resize(after.size, Image.Resampling.BICUBIC))
        assert (tmp_path / path).read_bytes() == encoded(reference, "jpg", quality=95, subsampling=0)
    note = next(note for note in table.notes if "rows were exported" in note)
    assert small == 6
    assert f"{COUNT - small} are copies with a shorter side of 48 pixels (JPEG, quality 95), {small} are no" in note


def test_a_turned_photograph_is_stored_upright(photographs, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(drawing(1), "jpg", exif=exif, quality=95)
    write_tar(tmp_path / "a.tar", [Photograph("0.jpg", turned, "Acne", "P", 3)])
    table = loaded(from_tars(tmp_path, tmp_path / "out", data_files=str(tmp_path / "a.tar"), side=SIDE))
    after = Image.open(tmp_path / "out" / table.frame["image"].iloc[0])
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(turned)))
    assert after.size == (48, 64)
    assert not after.getexif()
    assert np.abs(np.asarray(after, dtype=float) - np.asarray(upright.resize(after.size), dtype=float)).mean() < 3


class Killed(BaseException):
    """Ends a process without its leave; no handler of errors sees it."""


@pytest.mark.parametrize("kind", ["tars", "parquet"])
@pytest.mark.parametrize("cut", [3, 27, 60])
def test_a_cut_export_goes_on_and_has_the_same_bytes(kind, cut, request, tmp_path, monkeypatch):
    make = {"tars": from_tars, "parquet": from_parquet}[kind]
    folder = request.getfixturevalue(kind)
    monkeypatch.setattr(export, "BLOCK", 5)
    make(folder, tmp_path / "whole", side=SIDE).prepare()
    written, read = export.write_bytes, []

    def killing(path, content):
        if len(read) >= cut:
            (path.parent / f".{'0' * 16}.part").write_bytes(content[:9])
            raise Killed
        read.append(path)
        written(path, content)

    monkeypatch.setattr(export, "write_bytes", killing)
    with pytest.raises(Killed):
        make(folder, tmp_path / "cut", side=SIDE).prepare()
    assert not (tmp_path / "cut/labels.csv").exists()
    with (tmp_path / "cut/.export.jsonl").open("a") as log:
        log.write('[0, "scaled", 12')  # the machine stopped inside a line
    again = []
    monkeypatch.setattr(export, "write_bytes", lambda path, content: (again.append(path), written(path, content)))
    make(folder, tmp_path / "cut", side=SIDE).prepare()
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    # whole blocks of five that were recorded before the cut are not written again
    assert COUNT - cut <= len(again) <= COUNT - max(cut - 5 - 2 * 8, 0)


def test_shards_that_are_done_are_not_opened_again(tars, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "BLOCK", 5)
    opened, check = [], huggingface_rows._check_tar_end

    def failing_once(name):
        opened.append(name.rpartition("/")[2])
        check(name)
        if len(opened) == 3:
            raise OSError("connection reset by peer")

    monkeypatch.setattr(huggingface_rows, "_check_tar_end", failing_once)
    with pytest.raises(UserError, match=r"train-002\.tar, row 1: cannot be read \(connection reset by peer\); run the"):
        from_tars(tars, tmp_path).prepare()
    assert len(loaded(from_tars(tars, tmp_path))) == COUNT
    assert opened == ["train-000.tar", "train-001.tar", "train-002.tar", "train-001.tar", "train-002.tar"]


def test_a_broken_parquet_shard_is_named(parquet, tmp_path):
    for path in parquet.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = tmp_path / "train-001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"train-001\.parquet, row 1: cannot be read \(.*magic bytes not found"):
        from_parquet(tmp_path, tmp_path / "out").prepare()
    assert not (tmp_path / "out/labels.csv").exists()


def test_what_changed_since_the_cut_stops(photographs, tars, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "BLOCK", 5)
    folder = tmp_path / "tars"
    folder.mkdir()
    for path in tars.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    damaged = bytearray((folder / "train-001.tar").read_bytes())
    damaged[:512] = b"x" * 512
    (folder / "train-001.tar").write_bytes(damaged)
    with pytest.raises(UserError, match=r"train-001\.tar, row 1: cannot be read \(.*\); run the same"):
        from_tars(folder, tmp_path / "out").prepare()
    assert not (tmp_path / "out/labels.csv").exists()
    with pytest.raises(UserError, match=r"holds the beginning of another export; give another data\.source\.root"):
        from_tars(folder, tmp_path / "out", side=SIDE).prepare()
    (folder / "train-001.tar").write_bytes((tars / "train-001.tar").read_bytes())
    with pytest.raises(UserError, match=r"was begun before webdataset changed; remove the folder"):
        from_tars(folder, tmp_path / "out").prepare()


def test_a_finished_export_needs_its_originals_no_more_and_is_compared_with_them(tars, tmp_path, caplog):
    folder = tmp_path / "tars"
    folder.mkdir()
    for path in tars.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    before = loaded(from_tars(folder, tmp_path / "out"))
    (folder / "train-000.tar").write_bytes((folder / "train-001.tar").read_bytes())
    with pytest.raises(UserError, match=r"was exported before webdataset changed"):
        from_tars(folder, tmp_path / "out").prepare()
    for path in folder.iterdir():
        path.unlink()
    assert loaded(from_tars(folder, tmp_path / "out")).frame.equals(before.frame)
    assert "are gone, so it cannot be compared" in caplog.text
    with pytest.raises(UserError, match=r"holds another export"):
        from_tars(folder, tmp_path / "out", side=SIDE).prepare()


def test_a_tar_that_is_cut_between_members_is_no_end(photographs, tmp_path):
    write_tar(tmp_path / "a.tar", photographs[:4])
    with tarfile.open(tmp_path / "a.tar") as file:
        third = file.getmembers()[4]
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: third.offset])
    with pytest.raises(UserError, match=r"a\.tar: is truncated \(a tar ends with 1,024 zero bytes\)"):
        from_tars(tmp_path, tmp_path / "out", data_files=str(tmp_path / "a.tar")).prepare()
    assert not (tmp_path / "out/labels.csv").exists()


def test_a_server_that_gives_no_part_of_a_file_is_named(tars, tmp_path, monkeypatch, caplog):
    """It may be truncated, and nobody could know."""

    class Whole(io.BytesIO):
        def seek(self, *_):
            raise ValueError("Cannot seek streaming HTTP file")

    monkeypatch.setattr(huggingface_rows.fsspec, "open", lambda *_: Whole())
    with caplog.at_level("WARNING", logger="siglip_med"):
        huggingface_rows._check_tar_end("http://x/train-000.tar")
    assert "train-000.tar: its end cannot be read alone" in caplog.text
    assert "whether it is truncated was not checked" in caplog.text


def test_photographs_whose_names_have_capitals_or_dots_are_read_too(photographs, plain, tmp_path):
    named = [
        replace(item, name=item.name.replace(".jpg", (".jpg", ".JPG", ".v2.jpg", ".left.V2.Jpg")[number % 4]))
        for number, item in enumerate(photographs)
    ]
    write_tar(tmp_path / "all.tar", named)
    table = loaded(from_tars(tmp_path, tmp_path / "out", data_files=str(tmp_path / "all.tar")))
    assert len(table) == len(photographs)
    assert sorted(table.frame["case"]) == sorted(plain.load().frame["case"])


def test_a_broken_photograph_and_a_missing_one_are_counted_and_left_to_the_policy(photographs, tmp_path):
    broken = Photograph("0001.jpg", photographs[0].data[:300], "Acne", "P", 3)
    absent = Photograph("0002.txt", b"no image", "Acne", "P", 3)
    write_tar(tmp_path / "a.tar", [photographs[0], broken, absent])
    one = from_tars(tmp_path, tmp_path / "out", data_files=[str(tmp_path / "a.tar")], side=SIDE)
    table = loaded(one)
    stored = [(tmp_path / "out" / path).read_bytes() for path in table.frame["image"]]
    assert stored[1:] == [broken.data, b""]
    note = next(note for note in table.notes if "rows were exported" in note)
    assert "1 cannot be decoded and are kept as they are; 1 rows have no image, and an empty file" in note


def test_a_full_disk_stops_before_it_is_full_and_the_export_goes_on_later(tars, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "BLOCK", 5)
    usage, calls = export.shutil.disk_usage(tmp_path), []

    def filling(path):
        calls.append(path)
        return usage._replace(free=export.RESERVE - (len(calls) > 5))

    with monkeypatch.context() as patch:
        patch.setattr(export.shutil, "disk_usage", filling)
        with pytest.raises(UserError, match=rf"{tmp_path / 'out'}: 0\.54 GB of its disk are free, .* to resume"):
            from_tars(tars, tmp_path / "out").prepare()
    assert len((tmp_path / "out/.export.jsonl").read_text().splitlines()) > 20
    assert len(loaded(from_tars(tars, tmp_path / "out"))) == COUNT


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and writes down which."""

    asked: list[str]

    def log_message(self, *arguments) -> None:
        type(self).asked.append(self.path)

    def copyfile(self, source, outputfile) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # of who looks at the first samples alone
            super().copyfile(source, outputfile)


@pytest.fixture
def server(tars):
    handler = type("Handler", (Quiet,), {"asked": []})
    address = ("127.0.0.1", 0)
    with http.server.ThreadingHTTPServer(address, functools.partial(handler, directory=str(tars))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        running.shutdown()


def test_shards_stream_over_http(server, tars, tmp_path):
    address, handler = server
    table = loaded(from_tars(tars, tmp_path / "http", data_files=f"{address}/train-{{000..002}}.tar"))
    local = loaded(from_tars(tars, tmp_path / "local"))
    assert {"/train-000.tar", "/train-001.tar", "/train-002.tar"} <= set(handler.asked)
    assert table.frame.equals(local.frame)
    images = [{name: data for name, data in files_of(tmp_path / place).items() if name.startswith("images")}
              for place in ("http", "local")]  # fmt: skip
    assert images[0] == images[1]
    with pytest.raises(UserError, match=r"data\.source\.dataset=webdataset: cannot be loaded \(.*nothing\.tar"):
        from_tars(tars, tmp_path / "none", data_files=f"{address}/nothing.tar").prepare()


def test_without_streaming_the_export_is_the_same_but_for_its_folders(parquet, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    streamed = loaded(from_parquet(parquet, tmp_path / "a", side=SIDE))
    whole = loaded(from_parquet(parquet, tmp_path / "b", side=SIDE, streaming=False))
    paths = ["image", "image_id"]
    assert streamed.frame.drop(columns=paths).equals(whole.frame.drop(columns=paths))
    for left, right in zip(streamed.frame["image"], whole.frame["image"], strict=True):
        assert (tmp_path / "a" / left).read_bytes() == (tmp_path / "b" / right).read_bytes()


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_rows_may_name_their_photographs_in_place_of_holding_them(kind, server, photographs, plain, tars, tmp_path):
    """Row 1 gives a path, row 2 an address; no file system is asked that is not on the list."""
    address, _ = server
    (tars / photographs[1].name).write_bytes(photographs[1].data)
    places = [f"{plain.root}/{photographs[0].name}", f"{address}/{photographs[1].name}"]

    def write(*places: str) -> None:
        lines = {
            "json": [json.dumps({"photo": place, "dx": ["Acne"]}) for place in places],
            "csv": ["photo,dx", *(f"{place},Acne" for place in places)],
        }
        (tmp_path / "rows").write_text("\n".join(lines[kind]) + "\n")

    settings = {"dataset": kind, "data_files": str(tmp_path / "rows"), "streaming": True, "image_column": "photo",
                "condition_column": "dx"}  # fmt: skip
    write(*places)
    table = loaded(HuggingFaceSource(root=str(tmp_path / "out"), **settings))
    stored = [(tmp_path / "out" / path).read_bytes() for path in table.frame["image"]]
    assert stored == [item.data for item in photographs[:2]]
    write("reference::http://x/y.jpg")
    with pytest.raises(UserError, match=r"rows, row 1: reference::http://x/y\.jpg is neither a path nor an address of"):
        HuggingFaceSource(root=str(tmp_path / "bad"), **settings).prepare()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"data_files": None},
            r"data\.source\.dataset=webdataset: is a format; give its files in data\.source\.data_f",
        ),
        ({"dataset": "pandas"}, r"data\.source\.dataset=pandas: data_files are read as webdataset, parquet"),
        ({"data_files": "reference://x.tar"}, r"data\.source\.data_files: reference://x\.tar is neither a path nor"),
        ({"data_files": "simplecache::s3://x.tar"}, r"data\.source\.data_files: simplecache::s3://x\.tar is neither"),
        ({"data_files": "x-{9..1}.tar"}, r"data\.source\.data_files: \{9\.\.1\} is no range"),
        ({"split": "final"}, r"webdataset: has no split 'final'; there are train"),
        ({"image_column": "webp"}, r"train-000\.tar: none of its first 22 rows has 'webp'"),
        ({"group_column": "json.pateint"}, r"train-000\.tar: none of its first 22 rows has 'json\.pateint'"),
        ({"condition_column": "json"}, r"train-000\.tar, row 1, column 'json': holds several values \(condition, "),
    ],
)
def test_what_is_wrong_is_said(settings, message, tars, tmp_path):
    with pytest.raises(UserError, match=message):
        from_tars(tars, tmp_path / "out", **settings).prepare()
    assert not (tmp_path / "out/labels.csv").exists()


def test_a_column_that_parquet_has_not_is_named_before_anything_is_read(parquet, tmp_path):
    with pytest.raises(UserError, match=r"parquet: no column 'about\.years'; there are image, label, patient, about"):
        from_parquet(parquet, tmp_path / "out", age_column="about.years").prepare()
    assert not (tmp_path / "out").exists()


def test_a_saved_folder_is_not_streamed(tmp_path):
    rows = datasets.Dataset.from_dict({"image": [1], "label": ["Acne"]})
    rows.save_to_disk(str(tmp_path / "saved"))
    one = HuggingFaceSource(root=str(tmp_path / "out"), dataset=str(tmp_path / "saved"), streaming=True)
    with pytest.raises(
        UserError, match=r"data\.source\.streaming: .* is a folder of save_to_disk, which is read in place"
    ):
        one.prepare()


def test_number_ranges_are_written_out():
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{0..1}/{5..6}") == ["0/5", "0/6", "1/5", "1/6"]
    assert expand("plain-*.parquet") == ["plain-*.parquet"]


def test_a_run_trains_from_the_command_line(tars, plain, tmp_path):
    settings = two_steps(
        tmp_path,
        "data=huggingface",
        f"data.source.root={tmp_path / 'data'}",
        "data.source.dataset=webdataset",
        f"data.source.data_files='{tars}/train-{{000..002}}.tar'",
        "data.source.streaming=true",
        f"data.source.side={SIDE}",
        "data.source.image_column=[jpg,png]",
        "data.source.condition_column=json.condition",
        "data.source.group_column=json.patient",
    )
    data = train.run(settings).components.data
    wanted = make_split(plain.load(), instantiate(settings.data["splitter"]), data.seed)
    assert data.split.parts.tolist() == wanted.parts.tolist()
    assert "rows were exported" in (tmp_path / "run/split_report.txt").read_text()
