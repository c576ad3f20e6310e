"""What the page lets in and sends out, without a browser."""

import asyncio
import re

import pytest

from siglip_med.demo.page import sentences_of
from siglip_med.demo.server import DemoServer, Guard, is_loopback
from siglip_med.errors import UserError
from tests.demo.conftest import LIMITS


def test_a_port_that_is_taken_or_an_address_that_is_not_ours_is_one_line():
    first = DemoServer("127.0.0.1", 0, LIMITS)
    port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", first.url)[1])
    with pytest.raises(UserError, match=rf"^host=127\.0\.0\.1 port={port}: cannot listen there \(address already"):
        DemoServer("127.0.0.1", port, LIMITS)
    first.close()
    DemoServer("127.0.0.1", port, LIMITS).close()
    with pytest.raises(UserError, match=r"^host=192\.0\.2\.1 port=0: cannot listen there"):
        DemoServer("192.0.2.1", 0, LIMITS)


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("10.0.0.7", False)],
)
def test_only_this_machines_own_addresses_need_no_warning(host, alone):
    assert is_loopback(host) == alone


def ask(largest, chunks, headers=()):
    """Sends a body through the guard to an application that reads all of it."""
    sent, read = [], []

    async def application(scope, receive, send):
        while True:
            message = await receive()
            read.append(message)
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Referrer-Policy", b"all")]})

    async def receive():
        body = chunks.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(chunks)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/gradio_api/upload", "headers": list(headers)}
    asyncio.run(Guard(application, largest)(scope, receive, send))
    return sent, read


def test_a_body_that_says_it_is_too_large_never_reaches_the_page():
    sent, read = ask(10, [b"x" * 11], [(b"content-length", b"11")])
    assert sent[0]["status"] == 413
    assert read == []
    sent, read = ask(10, [b"x" * 10], [(b"content-length", b"10")])
    assert sent[0]["status"] == 200
    assert len(read[0]["body"]) == 10


def test_a_body_of_unknown_length_is_cut_off_where_it_grows_too_long():
    _, read = ask(10, [b"x" * 6, b"x" * 6, b"x" * 6])
    assert [message["type"] for message in read] == ["http.request", "http.disconnect"]


def test_the_browser_is_told_to_fetch_and_keep_nothing():
    sent, _ = ask(10, [b""])
    headers = [(name.decode().lower(), value.decode()) for name, value in sent[0]["headers"]]
    assert len(dict(headers)) == len(headers)
    assert dict(headers)["referrer-policy"] == "no-referrer"
    assert dict(headers)["cache-control"] == "no-store"
    policy = dict(headers)["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy.replace("http-equiv", "")


def test_sentences_are_lines_without_repeats_and_limited():
    assert sentences_of(" a \n\nb\na", 2) == ["a", "b"]
    with pytest.raises(UserError, match="Write a sentence first"):
        sentences_of(" \n", 2)
    with pytest.raises(UserError, match="3 sentences are more than the limit of 2"):
        sentences_of("a\nb\nc", 2)
