"""The page on its port: what it lets in, what it sends out, and how it starts and ends."""

import ipaddress
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from siglip_med.demo import views
from siglip_med.demo.answers import Answerer
from siglip_med.demo.limits import Limits
from siglip_med.demo.page import Visit, build_page, theme
from siglip_med.demo.sessions import Sessions
from siglip_med.demo.uploads import private_folder, sweep
from siglip_med.errors import UserError

_HEADERS = {
    # The page's own files alone: whatever asks for another server (fonts, analytics) is stopped by the browser.
    "content-security-policy": (
        "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'; base-uri 'self'; "
        "form-action 'self'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_MULTIPART_SLACK = 65_536
"""Bytes that a form has around its files."""
_TICK = 15.0
"""Seconds between two looks at what is to be forgotten."""


class Guard:
    """ASGI middleware: refuses bodies that no allowed upload has, and tells the browser to keep and fetch nothing."""

    def __init__(self, app: ASGIApp, largest: int) -> None:
        """Wraps an application.

        Args:
            app: the application.
            largest: bytes of a request's body.
        """
        self.app, self.largest = app, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on with its body counted and the answer's headers added."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if not stated.isdigit() or int(stated) > self.largest:
            await _refuse(send, self.largest)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            # a body without a stated length that grows too long is cut off, as if the visitor had gone
            return {"type": "http.disconnect"} if seen > self.largest else message

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = dict(_HEADERS)
                if "/gradio_api/" in scope["path"]:
                    own["cache-control"] = "no-store"
                kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in own]
                added = [(name.encode(), value.encode()) for name, value in own.items()]
                message = {**message, "headers": [*kept, *added]}
            await send(message)

        await self.app(scope, counted, guarded)


async def _refuse(send: Send, largest: int) -> None:
    text = f"The upload is larger than the limit of {largest / 2**20:.0f} MB."
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class DemoServer:
    """A page that is ready to be served; its port is taken from the beginning, so that a taken one is said at once."""

    def __init__(self, host: str, port: int, limits: Limits) -> None:
        """Takes the port.

        Args:
            host: the address to listen on.
            port: 0 takes any that is free.
            limits: of a visitor.

        Raises:
            UserError: the address cannot be had, or the port is taken.
        """
        self.host, self.limits = host, limits
        self.visits: Sessions[Visit] = Sessions(limits.visitors, limits.minutes * 60)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host.strip("[]"), port), family=family)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"host={host} port={port}: cannot listen there ({reason.lower()}); give another port, or port=0 for "
                "any free one"
            ) from error
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """Where the page is."""
        host = f"[{self.host}]" if ":" in self.host and not self.host.startswith("[") else self.host
        return f"http://{host}:{self.port}/"

    def close(self) -> None:
        """Gives the port back."""
        self._socket.close()

    @contextmanager
    def running(self, answerer: Answerer, coverage: float) -> Iterator[str]:
        """Serves the page from another thread; in the end every file and every photograph is forgotten.

        Args:
            answerer: the model.
            coverage: that the slider starts with.
        """
        with private_folder() as folder:
            server = uvicorn.Server(
                uvicorn.Config(
                    self._application(build_page(answerer, self.visits, self.limits, coverage)),
                    log_level="warning",
                    access_log=False,  # it would name the visitors' files
                    timeout_graceful_shutdown=1,
                )
            )
            over = threading.Event()

            def forget() -> None:
                while not over.wait(_TICK):
                    self.visits.purge()
                    sweep(folder)

            threads = [
                threading.Thread(target=server.run, kwargs={"sockets": [self._socket]}, daemon=True),
                threading.Thread(target=forget, daemon=True),
            ]
            for thread in threads:
                thread.start()
            try:
                yield self.url
            finally:
                server.should_exit = True
                over.set()
                for thread in threads:
                    thread.join(timeout=10)
                self.close()

    def _application(self, page: gr.Blocks) -> FastAPI:
        app = FastAPI(openapi_url=None)
        if is_loopback(self.host):  # a stranger's web site must not talk to this page under another name
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]", self.host])
        app.add_middleware(Guard, largest=self.limits.files * self.limits.file_bytes + _MULTIPART_SLACK)
        return gr.mount_gradio_app(
            app,
            page,
            path="/",
            server_name=self.host,
            server_port=self.port,
            max_file_size=self.limits.file_bytes,
            show_error=False,
            mcp_server=False,
            enable_monitoring=False,
            theme=theme(),
            css=views.style(),
            footer_links=[],
            ssr_mode=False,
            pwa=False,
        )
