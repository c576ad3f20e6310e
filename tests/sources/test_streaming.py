"""Sharded sets streamed into a folder: the table of a CSV of the same, cut and gone on, refused where wrong."""

import contextlib
import csv
import functools
import http.server
import io
import json
import tarfile
import threading
from dataclasses import dataclass

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image, ImageOps

from siglip_med.commands import train
from siglip_med.config import typed
from siglip_med.data.splitting.split import GroupStratifiedSplitter, make_split
from siglip_med.errors import UserError
from siglip_med.sources import CsvSource, HuggingFaceSource, export, huggingface_rows
from siglip_med.sources.huggingface_rows import expand
from siglip_med.synthetic.recipes import load_recipes
from siglip_med.synthetic.renderer import draw_appearance, render
from tests.runs import compose_config

datasets = pytest.importorskip("datasets")

CONDITIONS = ("Eczema", "Psoriasis", "Acne")
COUNT, SHARDS, SIDE = 66, 3, 48


@dataclass(frozen=True)
class Photograph:
    name: str
    data: bytes
    condition: str
    patient: str
    age: int


def drawing(number: int) -> np.ndarray:
    """A drawn lesion of 80 x 60 or 60 x 80 pixels, every eleventh smaller than the side that is asked for."""
    recipe = next(item for item in load_recipes() if item.condition == CONDITIONS[number % 3])
    rng = np.random.default_rng([5, number])
    picture = render(draw_appearance(rng, recipe.layers, 1 + number % 6, next(iter(recipe.sites))), 80, rng)
    picture = picture[10:70] if number % 2 else picture[:, 10:70]
    return picture[::2, ::2] if number % 11 == 10 else picture


def encoded(pixels: np.ndarray, suffix: str, **settings) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"jpg": "JPEG", "png": "PNG"}[suffix], **settings)
    return file.getvalue()


@pytest.fixture(scope="module")
def photographs() -> list[Photograph]:
    found = []
    for number in range(COUNT):
        suffix = "png" if number % 3 == 2 else "jpg"
        data = encoded(drawing(number), suffix)
        condition = CONDITIONS[number % 3]
        found.append(Photograph(f"{number:04d}.{suffix}", data, condition, f"P{number // 2}", 20 + number))
    return found


def parts(photographs: list[Photograph]) -> list[list[Photograph]]:
    size = -(-len(photographs) // SHARDS)
    return [photographs[start : start + size] for start in range(0, len(photographs), size)]


def write_tar(path, photographs: list[Photograph]) -> None:
    with tarfile.open(path, "w") as file:
        for item in photographs:
            about = {"condition": item.condition, "patient": item.patient, "about": {"age": item.age}}
            if item.age % 5 == 0:
                about["note"] = "a key that the first samples do not have"
            stem = item.name.partition(".")[0]
            for name, data in ((item.name, item.data), (f"{stem}.json", json.dumps(about).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module")
def tars(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    for number, part in enumerate(parts(photographs)):
        write_tar(folder / f"train-{number:03d}.tar", part)
    return folder


@pytest.fixture(scope="module")
def parquet(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(CONDITIONS)),
            "patient": datasets.Value("string"),
            "about": {"age": datasets.Value("int64")},
        }
    )
    for number, part in enumerate(parts(photographs)):
        rows = {
            "image": [{"bytes": item.data, "path": item.name} for item in part],
            "label": [CONDITIONS.index(item.condition) for item in part],
            "patient": [item.patient for item in part],
            "about": [{"age": item.age} for item in part],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"train-{number:03d}.parquet"))
    return folder


def from_tars(tars, root, **settings) -> HuggingFaceSource:
    columns = {"image_column": ["jpg", "png"], "condition_column": "json.condition", "group_column": "json.patient",
               "age_column": "json.about.age"}  # fmt: skip
    files = f"{tars}/train-{{000..{SHARDS - 1:03d}}}.tar"
    given = {"dataset": "webdataset", "data_files": files, "streaming": True, **columns}
    return HuggingFaceSource(root=str(root), **(given | settings))


def from_parquet(parquet, root, **settings) -> HuggingFaceSource:
    columns = {"group_column": "patient", "age_column": "about.age"}
    given = {"dataset": "parquet", "data_files": {"test": f"{parquet}/*.parquet"}, "streaming": True, **columns}
    return HuggingFaceSource(root=str(root), **(given | settings))


@pytest.fixture(scope="module")
def plain(photographs, tmp_path_factory) -> CsvSource:
    """The same photographs as files and a CSV."""
    root = tmp_path_factory.mktemp("plain")
    lines = ["image,condition,patient,age"]
    for item in photographs:
        (root / item.name).write_bytes(item.data)
        lines.append(f"{item.name},{item.condition},{item.patient},{item.age}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return CsvSource(root=str(root), group_column="patient", age_column="age")


def files_of(root) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def loaded(source):
    source.prepare()
    return source.load()


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
    with pytest.raises(UserError, match=r"train-001\.tar, row 1: cannot be read \(.*\); run the same command to go on"):
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
    with pytest.raises(UserError, match=r"a\.tar: is cut short \(a tar ends with 1,024 zero bytes\)"):
        from_tars(tmp_path, tmp_path / "out", data_files=str(tmp_path / "a.tar")).prepare()
    assert not (tmp_path / "out/labels.csv").exists()


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
        return usage._replace(free=export.RESERVE - (len(calls) > 40))

    with monkeypatch.context() as patch:
        patch.setattr(export.shutil, "disk_usage", filling)
        with pytest.raises(UserError, match=rf"{tmp_path / 'out'}: 0\.54 GB of its disk are free, .* to go on"):
            from_tars(tars, tmp_path / "out").prepare()
    assert json.loads((tmp_path / "out/.export/progress.json").read_text())["counts"]["rows"] >= 20
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
        UserError, match=r"data\.source\.streaming: .* is a folder of save_to_disk, which is read where"
    ):
        one.prepare()


def test_number_ranges_are_written_out():
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{0..1}/{5..6}") == ["0/5", "0/6", "1/5", "1/6"]
    assert expand("plain-*.parquet") == ["plain-*.parquet"]


def test_a_run_trains_from_the_command_line(tars, plain, tmp_path):
    settings = typed(
        compose_config(
            "data=huggingface",
            f"data.source.root={tmp_path / 'data'}",
            "data.source.dataset=webdataset",
            f"data.source.data_files='{tars}/train-{{000..002}}.tar'",
            "data.source.streaming=true",
            f"data.source.side={SIDE}",
            "data.source.image_column=[jpg,png]",
            "data.source.condition_column=json.condition",
            "data.source.group_column=json.patient",
            f"paths.output_dir={tmp_path / 'run'}",
            f"paths.cache_dir={tmp_path / 'cache'}",
            "data.num_workers=0",
            "data.batch_size=8",
            "trainer.max_steps=2",
            "callbacks.progress=null",
            "evaluation.bootstrap=20",
        ),
        train.Settings,
    )
    data = train.run(settings).components.data
    wanted = make_split(plain.load(), instantiate(settings.data["splitter"]), data.seed)
    assert data.split.parts.tolist() == wanted.parts.tolist()
    assert "rows were exported" in (tmp_path / "run/split_report.txt").read_text()
