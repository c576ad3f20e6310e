"""Transfers against a local server that can break off, change the file or lie about it."""

import base64
import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from siglip_med.core.errors import UserError
from siglip_med.sources import ScinSource
from siglip_med.sources.download import download_all, fetch
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
    paths: list[str] = field(default_factory=list)


@pytest.fixture
def server():
    state = Server({"/file.bin": BODY})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.paths.append(self.path)
            self.close_connection = True
            body = state.files.get(self.path)
            if state.statuses or body is None:
                self.send_error(state.statuses.pop(0) if state.statuses else 404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            digest = hashlib.md5(b"other" if state.wrong_md5 else body).digest()
            self.send_header("x-goog-hash", "crc32c=AAAAAA==")
            self.send_header("x-goog-hash", "md5=" + base64.b64encode(digest).decode())
            self.end_headers()
            self.wfile.write(body[: state.break_after.pop(0)] if state.break_after else body)

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


def test_a_transfer_that_breaks_off_is_tried_again_and_only_the_whole_file_stays(server, tmp_path):
    server.break_after = [100_000, 150_000]
    path = tmp_path / "deep" / "file.bin"
    get(server, path)
    assert path.read_bytes() == BODY
    assert len(server.paths) == 3
    assert [file.name for file in path.parent.iterdir()] == ["file.bin"]


def test_what_broke_off_at_last_is_said_and_nothing_is_kept_of_it(server, tmp_path):
    server.break_after = [70_000]
    with pytest.raises(UserError, match=r"file\.bin: could not be fetched \(IncompleteRead\(70000 bytes read, 442000"):
        get(server, tmp_path / "file.bin", attempts=1)
    assert not list(tmp_path.iterdir())


def test_damage_is_noticed_and_nothing_is_kept(server, tmp_path):
    server.wrong_md5 = True
    with pytest.raises(UserError, match="does not have the server's checksum"):
        get(server, tmp_path / "file.bin", attempts=2)
    assert not list(tmp_path.iterdir())


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
    wanted = {tmp_path / str(number): f"{server.url}/{number}" for number in range(20)}
    download_all(wanted, workers=4, wait=0.0)
    assert (tmp_path / "7").read_bytes() == b"mine"
    assert "/7" not in server.paths
    assert all((tmp_path / str(n)).read_bytes() == bytes([n]) * 1000 for n in range(20) if n != 7)
    download_all(wanted, wait=0.0)
    assert len(server.paths) == 19
    with pytest.raises(UserError, match="HTTP 404"):
        download_all({tmp_path / "none": f"{server.url}/none"}, wait=0.0)


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
