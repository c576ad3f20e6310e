"""What stands before the page: who may ask, for what, and with how many bytes."""

import hashlib
import hmac
import json
import secrets
import threading
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    # The page's own files alone: whatever asks for another server (fonts, analytics) is stopped by the browser.
    "content-security-policy": (
        "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'; base-uri 'self'; "
        "form-action 'self'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_API = "/gradio_api/"
_UPLOAD = _API + "upload"
# What the page in the browser asks for, and nothing else: Gradio's routes for files, proxies, recordings, component
# servers and its API are no part of this page.
_EXACT = {"/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", _UPLOAD, _API + "upload_progress"}
_BELOW = (
    "/assets/", "/static/", "/svelte/", "/gradio_api/queue/", "/gradio_api/heartbeat/", "/gradio_api/startup-events",
)  # fmt: skip
LARGEST_MESSAGE = 65_536
"""Bytes of a request that uploads nothing: sentences and choices."""
VISITOR = "x-siglip-med-visitor"
"""Header by which the guard tells the page whose request it is; what a visitor writes there is dropped."""
_MULTIPART_SLACK = 65_536
"""Bytes that a form has around its files."""
_REMEMBERED = 1_000
"""Uploaded paths whose visitor is remembered."""


class Guard:
    """ASGI middleware that lets visitors of the page in and keeps everyone, and everything else, out.

    A request passes if it carries the cookie that the URL's token gave, comes from the page's own origin, asks for a
    path that the page uses, has no more bytes than such a request needs, and names no file but those that the same
    visitor uploaded. This holds for every function and every input of the page, whatever Gradio checks behind it.
    """

    def __init__(self, app: ASGIApp, token: str | None, largest_upload: int) -> None:
        """Wraps an application; no token lets every visitor in; ``largest_upload``: bytes of one request's files."""
        self.app, self.token, self.largest_upload = app, token, largest_upload
        self._secret = secrets.token_bytes(32)
        self._cookie = f"siglip-med-{secrets.token_hex(4)}"  # cookies do not tell ports apart: two pages, two names
        self._uploads: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":  # the page opens no web socket; ending without an answer refuses it
            refusal = await self._pass(Request(scope), receive, send)
            if refusal is not None:
                await refusal(scope, receive, send)

    async def _pass(self, request: Request, receive: Receive, send: Send) -> PlainTextResponse | None:
        """Passes a request on; or the answer in its place."""
        origin, path = request.headers.get("origin"), request.scope["path"]  # a URL's path would heed the Host header
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            return _answer(403, "Another site may not talk to this page.")
        if path not in _EXACT and not path.startswith(_BELOW):
            return _answer(404, "This page has nothing there.")
        visitor = self._visitor(request)
        if visitor is None:
            return self._admit(request)
        own = (VISITOR.encode(), visitor.encode())
        headers = [*(pair for pair in request.scope["headers"] if pair[0].lower() != own[0]), own]
        scope = {**request.scope, "headers": headers}
        largest = self.largest_upload + _MULTIPART_SLACK if path == _UPLOAD else LARGEST_MESSAGE
        too_large = _answer(413, f"The request is larger than the limit of {largest / 2**20:.3g} MB.")
        stated = request.headers.get("content-length", "0")
        if not stated.isdecimal() or int(stated) > largest:
            return too_large
        if path == _UPLOAD:
            await self.app(scope, _counted(receive, largest), self._noting_uploads(_hardened(send, path), visitor))
            return None
        body = await _read(receive, largest)
        if body is None:
            return too_large
        if not self._names_own_files_alone(body, visitor):
            return _answer(403, "A request may name only files that the same visitor uploaded.")
        await self.app(scope, _replayed(body, receive), _hardened(send, path))
        return None

    def _visitor(self, request: Request) -> str | None:
        """Whose cookie a request carries; None for one that was not let in."""
        name, _, signature = request.cookies.get(self._cookie, "").partition(".")
        return name if name and hmac.compare_digest(signature.encode(), self._signature(name).encode()) else None

    def _names_own_files_alone(self, body: bytes, visitor: str) -> bool:
        """Whether every file that a JSON body names was uploaded by its visitor.

        Gradio takes a dictionary with ``path`` for a file wherever it stands, so all of the body is looked through.
        """
        if not body:
            return True
        try:
            paths = list(_paths(json.loads(body)))
        except (ValueError, RecursionError):
            return False
        with self._lock:
            return all(isinstance(path, str) and visitor in self._uploads.get(path, ()) for path in paths)

    def _signature(self, visitor: str) -> str:
        return hmac.new(self._secret, visitor.encode(), hashlib.sha256).hexdigest()

    def _admit(self, request: Request) -> PlainTextResponse:
        """Gives the page's first request its cookie, if it has the token."""
        given = request.query_params.get("token", "")
        known = self.token is None or hmac.compare_digest(given.encode(), self.token.encode())
        if request.scope["path"] != "/" or not known:
            return _answer(403, "Open the page by the whole address that siglip-med-demo printed, token included.")
        name = secrets.token_hex(16)
        answer = _answer(303, "", location="/")  # the address bar loses the token
        answer.set_cookie(self._cookie, f"{name}.{self._signature(name)}", httponly=True, samesite="lax")
        return answer

    def _noting_uploads(self, send: Send, visitor: str) -> Send:
        """Remembers the paths that the answer to an upload lists as this visitor's."""
        kept = bytearray()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.body":
                kept.extend(message.get("body", b""))
                if not message.get("more_body"):
                    self._remember(bytes(kept), visitor)
            await send(message)

        return noting

    def _remember(self, answer: bytes, visitor: str) -> None:
        try:
            paths = json.loads(answer)
        except ValueError:  # an error of the upload, in words
            return
        if isinstance(paths, list):
            with self._lock:
                for path in paths:
                    self._uploads.setdefault(str(path), set()).add(visitor)
                while len(self._uploads) > _REMEMBERED:
                    del self._uploads[next(iter(self._uploads))]


def _paths(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        if "path" in value:
            yield value["path"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _paths(item)


def _hardened(send: Send, path: str) -> Send:
    """Adds the headers that tell a browser to fetch and keep nothing."""
    own = _HEADERS | ({"cache-control": "no-store"} if path.startswith(_API) else {})

    async def hardened(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in own]
            message = {**message, "headers": [*kept, *((name.encode(), value.encode()) for name, value in own.items())]}
        await send(message)

    return hardened


def _counted(receive: Receive, largest: int) -> Receive:
    """Cuts a body without a stated length off where it grows too long, as if the visitor had gone."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > largest else message

    return counted


async def _read(receive: Receive, largest: int) -> bytes | None:
    """The whole of a small body; None where it grows too long."""
    body = bytearray()
    while True:
        message = await receive()
        body.extend(message.get("body", b""))
        if len(body) > largest:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _answer(status: int, text: str, **headers: str) -> PlainTextResponse:
    """The guard's own answer; the rest of a request that is refused is not waited for."""
    own = headers or {"connection": "close"}
    return PlainTextResponse(text, status, _HEADERS | {"cache-control": "no-store"} | own)
