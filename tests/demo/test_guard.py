"""Nobody reads what is not theirs: the page over real HTTP, and its guard alone."""

import asyncio
import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import httpx
import pytest

from siglip_med.core.errors import UserError
from siglip_med.demo import server as serving
from siglip_med.demo.guard import LARGEST_MESSAGE, VISITOR, Guard
from siglip_med.demo.server import DemoServer, close_file_paths
from tests.demo.conftest import LIMITS

SECRET = b"-----BEGIN PRIVATE KEY----- nobody reads this"


@pytest.fixture(scope="module")
def server(answerer):
    server = DemoServer("127.0.0.1", 0, LIMITS)
    with server.running(answerer, 0.9):
        yield server


@contextmanager
def visit(server):
    """A visitor who opened the page by its whole address."""
    with httpx.Client(base_url=server.url.partition("?")[0], timeout=60, follow_redirects=True) as client:
        assert client.get(server.url).status_code == 200
        yield client


@pytest.fixture
def visitor(server):
    with visit(server) as client:
        yield client


def upload(client, path: Path) -> str:
    answer = client.post("gradio_api/upload", files={"files": (path.name, path.read_bytes())})
    return answer.json()[0]


def call(client, function: int, data: list, session: str = "abcdefghij1") -> str:
    """What the page's own way of asking gives: the refusal, or all that the queue says."""
    joined = client.post(
        "gradio_api/queue/join",
        json={"data": data, "fn_index": function, "session_hash": session, "trigger_id": None, "event_data": None},
    )
    if joined.status_code != 200:
        return f"{joined.status_code} {joined.text}"
    said = ""
    with client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as events:
        for line in events.iter_lines():
            said += line
            if "process_completed" in line or "close_stream" in line:
                break
    return said


def file_data(path) -> dict:
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def functions(client) -> list[tuple[int, int]]:
    """Every function of the page's own config, with its number of inputs."""
    return [(entry["id"], len(entry["inputs"])) for entry in client.get("config").json()["dependencies"]]


def hostile(tmp_path, other: str) -> dict[str, object]:
    """Payloads that name something of the server's."""
    key = tmp_path / "key.pem"
    key.write_bytes(SECRET)
    key.chmod(0o600)
    link = tmp_path / "link.png"
    if not link.is_symlink():
        link.symlink_to(key)
    up = Path(other).parent / ".." / ".." / key.relative_to("/")
    files = {
        "outside": key, "another visitor's": other, "url": "http://127.0.0.1:9/x.png", "file url": f"file://{key}",
        "dot dot": up, "link": link, "folder": tmp_path, "package": gr.__file__, "relative": "pyproject.toml",
        "empty": "", "nul": f"{other}\0", "proc": "/proc/self/environ",
    }  # fmt: skip
    named: dict[str, object] = {name: file_data(path) for name, path in files.items()}
    named["in a list"] = [file_data(key)]
    named["nested"] = {"a": [{"b": file_data(key)}]}
    named["path of a wrong type"] = {"path": [str(key)], "meta": {"_type": "gradio.FileData"}}
    named["without meta"] = {"path": str(key)}
    named["video"] = {"video": file_data(key), "subtitles": file_data(key)}
    return named


def test_no_function_and_no_input_gives_a_file_that_the_visitor_did_not_upload(server, visitor, tmp_path, drawing):
    with visit(server) as somebody:
        other = upload(somebody, drawing)
        folder = Path(other).parents[1]
        before = sorted(folder.rglob("*"))
        tried = 0
        for function, inputs in functions(visitor):
            for place in range(max(inputs, 1)):
                for name, payload in hostile(tmp_path, other).items():
                    data: list = [None] * max(inputs, 1)
                    data[place] = payload
                    said = call(visitor, function, data)
                    assert said == "403 A request may name only files that the same visitor uploaded.", (function, name)
                    tried += 1
        assert tried > 100
        assert sorted(folder.rglob("*")) == before  # nothing was copied, nothing of the other visitor's was taken
        said = call(somebody, functions(somebody)[0][0], [[file_data(other)], 0.9])
        assert "sm-differential" in said or "sm-bar" in said or "process_completed" in said
        assert '"success":true' in said
        assert not Path(other).exists()


@pytest.mark.parametrize(
    "value",
    [{}, [], [[]], "x", -1, 1e308, True, {"url": "http://127.0.0.1:9/x"}, [{"orig_name": "a"}], 10**30],
)
def test_values_of_wrong_types_get_nothing_of_the_servers(visitor, value):
    for function, inputs in functions(visitor):
        said = call(visitor, function, [value] * inputs)
        assert "Traceback" not in said
        assert "site-packages" not in said


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/hostname", "file=/etc/hostname", "gradio_api/file/etc/hostname", "gradio_api/proxy=http://x",
        "gradio_api/info", "gradio_api/openapi.json", "openapi.json", "gradio_api/component_server", "gradio_api/runs",
        "gradio_api/api/drop", "gradio_api/run/drop", "gradio_api/call/drop", "gradio_api/stream/x", "monitoring",
        "gradio_api/custom_component/1/client/x/y.js", "gradio_api/process_recording", "docs", "gradio_api/vibe-code",
        "assets/../gradio_api/file=/etc/hostname", "static/%2e%2e/%2e%2e/pyproject.toml", "gradio_api/token",
    ],
)  # fmt: skip
def test_only_the_pages_own_paths_are_there(visitor, path):
    for method in ("GET", "POST", "HEAD"):
        assert visitor.request(method, path).status_code in (403, 404, 405), (method, path)


def test_without_the_token_there_is_nothing(server):
    address, temporary = server.url.partition("?")[0], Path(tempfile.gettempdir())
    before = set(temporary.glob("siglip-med-demo-*/*"))
    with httpx.Client(base_url=address) as stranger:
        for path in ("", "?token=", "?token=wrong", "config", "gradio_api/queue/data?session_hash=a"):
            answer = stranger.get(path)
            assert answer.status_code == 403
            assert "siglip-med-demo printed" in answer.text
        assert stranger.post("gradio_api/upload", files={"files": b"x"}).status_code == 403
        assert stranger.get("", headers={"cookie": "siglip-med=a.b; x=" + "y" * 2000}).status_code == 403
    assert set(temporary.glob("siglip-med-demo-*/*")) <= before


def test_the_token_leaves_the_address_and_another_site_is_refused(server, visitor):
    with httpx.Client() as client:
        first = client.get(server.url)
        assert (first.status_code, first.headers["location"]) == (303, "/")
        assert "HttpOnly" in first.headers["set-cookie"]
    for origin in ("http://evil.example", "null", "https://127.0.0.1"):
        assert visitor.get("config", headers={"origin": origin}).status_code == 403
    assert visitor.get("config", headers={"origin": server.url.partition("/?")[0]}).status_code == 200


def test_a_request_has_a_limit_in_bytes(visitor):
    assert call(visitor, 3, ["x" * LARGEST_MESSAGE]).startswith("413 ")
    large = visitor.post("gradio_api/upload", files={"files": b"x" * (LIMITS.files * LIMITS.file_bytes + 100_000)})
    assert large.status_code == 413


def test_a_gradio_that_hands_out_paths_is_not_served(monkeypatch):
    async def open_door(payload, *_, **__):
        return payload

    with gr.Blocks() as page:
        gr.File()
    close_file_paths(page)
    monkeypatch.setattr(serving, "async_move_files_to_cache", open_door)
    with pytest.raises(UserError, match=r"^Gradio .* does not refuse paths of files that nobody uploaded"):
        close_file_paths(page)


def ask(path, chunks, headers=(), token=None, largest=10):
    """Sends a body through the guard, as a visitor who was let in, to an application that reads all of it."""
    read = []

    async def application(scope, receive, send):
        read.append(dict(scope["headers"]).get(VISITOR.encode()))
        while True:
            message = await receive()
            read.append(message)
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Referrer-Policy", b"all")]})
        await send({"type": "http.response.body", "body": json.dumps(["/up/a.png"]).encode()})

    guard = Guard(application, token, largest)
    first = exchange(guard, "/", [b""])
    cookie = dict(first[0]["headers"])[b"set-cookie"].split(b";")[0]
    return exchange(guard, path, chunks, [*headers, (b"cookie", cookie)]), read


def exchange(guard, path, chunks, headers=()):
    sent = []

    async def receive():
        body = chunks.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(chunks)}

    async def send(message):
        sent.append(message)

    asyncio.run(guard({"type": "http", "path": path, "query_string": b"", "headers": list(headers)}, receive, send))
    return sent


def test_a_body_that_says_it_is_too_large_never_reaches_the_page():
    sent, read = ask("/gradio_api/upload", [b"x"], [(b"content-length", b"99999")])
    assert (sent[0]["status"], read) == (413, [])
    sent, read = ask("/gradio_api/queue/join", [b"x"], [(b"content-length", b"-1")])
    assert (sent[0]["status"], read) == (413, [])


def test_a_body_of_unknown_length_is_cut_off_where_it_grows_too_long():
    _, read = ask("/gradio_api/upload", [b"x" * 40_000, b"x" * 40_000, b"x"])
    assert [message["type"] for message in read[1:]] == ["http.request", "http.disconnect"]
    sent, read = ask("/gradio_api/queue/join", [b"[" * 40_000, b"[" * 40_000])
    assert (sent[0]["status"], read) == (413, [])


def test_a_body_that_nests_too_deep_or_is_no_json_names_no_file():
    for body in (b"[" * 50_000, b"{", b"\xff"):
        sent, read = ask("/gradio_api/queue/join", [body])
        assert (sent[0]["status"], read) == (403, [])


def test_the_page_learns_the_visitor_from_the_guard_alone():
    _, read = ask("/gradio_api/queue/join", [b"{}"], [(VISITOR.encode(), b"somebody else")])
    assert read[0] is not None
    assert read[0] != b"somebody else"


def test_the_browser_is_told_to_fetch_and_keep_nothing():
    sent, _ = ask("/gradio_api/queue/join", [b""])
    headers = [(name.decode().lower(), value.decode()) for name, value in sent[0]["headers"]]
    assert len(dict(headers)) == len(headers)
    assert dict(headers)["referrer-policy"] == "no-referrer"
    assert dict(headers)["cache-control"] == "no-store"
    policy = dict(headers)["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
