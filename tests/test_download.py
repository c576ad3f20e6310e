"""Transfers against a local server that can break off, change the file or lie about it."""

import base64
import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from siglip_med.core.errors import UserError
from siglip_med.download import Download, download_all, fetch
from siglip_med.sources import ScinSource
from tests.sources.test_scin import CASE_COLUMNS, CASES, LABEL_COLUMNS, LABELS, table_text

BODY = bytes(range(256)) * 2000


@dataclass
class Server:
    """What the server has, and how it behaves."""

    files: dict[str, bytes]
    url: str = ""
    break_after: list[int] = field(default_factory=list)  # bytes to send before hanging up, one a request
    statuses: list[int] = field(default_factory=list)  # errors to answer with first
    wrong_md5: bool = False
    ranges: list[str | None] = field(default_factory=list)  # what was asked for
    paths: list[str] = field(default_factory=list)


@pytest.fixture
def server():
    state = Server({"/file.bin": BODY})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.paths.append(self.path)
            state.ranges.append(self.headers.get("Range"))
            self.close_connection = True
            body = state.files.get(self.path)
            if state.statuses or body is None:
                self.send_error(state.statuses.pop(0) if state.statuses else 404)
                return
            etag = f'"{hashlib.md5(body).hexdigest()}"'
            start = 0
            if self.headers.get("If-Range") == etag:
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(body) > 0 and start:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.send_header("ETag", etag)
            digest = hashlib.md5(b"other" if state.wrong_md5 else body).digest()
            self.send_header("x-goog-hash", "crc32c=AAAAAA==")
            self.send_header("x-goog-hash", "md5=" + base64.b64encode(digest).decode())
            self.end_headers()
            rest = body[start:]
            self.wfile.write(rest[: state.break_after.pop(0)] if state.break_after else rest)

        def log_message(self, *args) -> None:
            """Says nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def get(server, path, **settings) -> None:
    fetch(f"{server.url}/file.bin", path, **{"wait": 0.0, **settings})


def test_a_transfer_that_breaks_off_goes_on_where_it_was(server, tmp_path):
    server.break_after = [100_000, 150_000]
    path = tmp_path / "deep" / "file.bin"
    get(server, path)
    assert path.read_bytes() == BODY
    assert server.ranges == [None, "bytes=100000-", "bytes=250000-"]
    assert [file.name for file in path.parent.iterdir()] == ["file.bin"]


def test_the_next_run_goes_on_with_what_the_last_one_left(server, tmp_path):
    path = tmp_path / "file.bin"
    server.break_after = [70_000]
    with pytest.raises(UserError, match=r"file\.bin: could not be fetched \(70,000 of 512,000 bytes arrived\)"):
        get(server, path, attempts=1)
    assert not path.exists()
    get(server, path, attempts=1)
    assert server.ranges == [None, "bytes=70000-"]
    assert path.read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    path = tmp_path / "file.bin"
    server.break_after = [70_000]
    with pytest.raises(UserError):
        get(server, path, attempts=1)
    server.files["/file.bin"] = BODY[::-1]
    get(server, path, attempts=1)
    assert path.read_bytes() == BODY[::-1]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server, tmp_path):
    path = tmp_path / "file.bin"
    (tmp_path / "file.bin.part").write_bytes(BODY + b"x")
    (tmp_path / "file.bin.part.etag").write_text(f'"{hashlib.md5(BODY).hexdigest()}"')
    get(server, path)
    assert path.read_bytes() == BODY


def test_damage_is_noticed_and_nothing_is_kept(server, tmp_path):
    server.wrong_md5 = True
    with pytest.raises(UserError, match="does not have the server's size or checksum"):
        get(server, tmp_path / "file.bin", attempts=2)
    assert not list(tmp_path.glob("file.bin")) + list(tmp_path.glob("*.part"))


def test_errors_of_the_server(server, tmp_path):
    server.statuses = [503, 429, 500]
    get(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == BODY
    asked = len(server.paths)
    with pytest.raises(UserError, match="HTTP 404"):
        fetch(f"{server.url}/none.bin", tmp_path / "none.bin", wait=0.0)
    assert len(server.paths) == asked + 1
    with pytest.raises(UserError, match="not an http"):
        fetch("file:///etc/passwd", tmp_path / "x")
    with pytest.raises(UserError, match="could not be fetched"):
        fetch("http://127.0.0.1:1/x", tmp_path / "x", attempts=2, wait=0.0)


def test_several_files_at_a_time_and_only_those_that_are_missing(server, tmp_path):
    server.files = {f"/{number}": bytes([number]) * 1000 for number in range(20)}
    (tmp_path / "7").write_bytes(b"mine")
    wanted = [Download(f"{server.url}/{number}", tmp_path / str(number)) for number in range(20)]
    download_all(wanted, workers=4, wait=0.0)
    assert (tmp_path / "7").read_bytes() == b"mine"
    assert "/7" not in server.paths
    assert all((tmp_path / str(n)).read_bytes() == bytes([n]) * 1000 for n in range(20) if n != 7)
    download_all(wanted, wait=0.0)
    assert len(server.paths) == 19
    with pytest.raises(UserError, match="HTTP 404"):
        download_all([Download(f"{server.url}/none", tmp_path / "none")], wait=0.0)


def test_scin_is_fetched_from_its_bucket(server, tmp_path):
    files = {f"/dataset/images/{name}.png": name.encode() for name in ("-1", "-2", "4")}
    files["/dataset/scin_cases.csv"] = table_text(CASE_COLUMNS, CASES).encode()
    files["/dataset/scin_labels.csv"] = table_text(LABEL_COLUMNS, LABELS).encode()
    server.files = files
    root = tmp_path / "scin"
    source = ScinSource(root=str(root), download=True, download_url=server.url)
    source.prepare()
    assert sorted(server.paths) == sorted(files)  # only labeled pictures of the chosen conditions
    table = source.load()
    assert all((table.root / image).read_bytes() == image[15:-4].encode() for image in table.frame["image"])
    source.prepare()
    assert len(server.paths) == len(files)
