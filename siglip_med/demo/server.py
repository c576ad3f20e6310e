"""The page on its port: what it lets in, what it sends out, and how it starts and ends."""

import asyncio
import ipaddress
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio.context import LocalContext
from gradio.exceptions import InvalidPathError
from gradio.processing_utils import async_move_files_to_cache
from starlette.middleware.trustedhost import TrustedHostMiddleware

from siglip_med.core.errors import UserError
from siglip_med.demo import views
from siglip_med.demo.answers import Answerer
from siglip_med.demo.guard import Guard
from siglip_med.demo.limits import Limits
from siglip_med.demo.page import Visit, build_page, theme
from siglip_med.demo.sessions import Sessions
from siglip_med.demo.uploads import private_folder, sweep

_TICK = 15.0
"""Seconds between two looks at what is to be forgotten."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def close_file_paths(page: gr.Blocks) -> None:
    """Makes Gradio refuse paths of files that were not uploaded, a second lock behind `Guard`; a UserError if not."""
    page.has_launched = True
    part = next(block for block in page.blocks.values() if isinstance(block, gr.File))

    async def ask(path: str) -> None:
        LocalContext.blocks.set(page)
        payload = {"path": path, "meta": {"_type": "gradio.FileData"}}
        await async_move_files_to_cache(payload, part, check_in_upload_folder=True)

    # a thread of its own, since the caller (a notebook) may have an event loop already
    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(lambda: asyncio.run(ask(__file__))).result()
        except InvalidPathError:
            return
    raise UserError(
        f"Gradio {gr.__version__} does not refuse paths of files that nobody uploaded, so the page is not served: "
        "install the version that siglip-med[demo] asks for"
    )


def _token(host: str, given: str | None) -> str | None:
    if given is None:
        return secrets.token_urlsafe(24)
    if given == "none":
        if not is_loopback(host):
            raise UserError(f"token=none host={host}: a page that other machines reach needs a token; leave token out")
        return None
    if not re.fullmatch(r"[A-Za-z0-9_-]{8,128}", given):
        raise UserError("token: 8 to 128 letters, digits, - and _; leave it out for a random one")
    return given


class DemoServer:
    """A page that is ready to be served; its port is taken from the beginning, so that a taken one is said at once."""

    def __init__(self, host: str, port: int, limits: Limits, token: str | None = None) -> None:
        """Takes the port.

        Args:
            host: the address to listen on.
            port: 0 takes any that is free.
            limits: of a visitor.
            token: that the page's address carries; None draws a random one, ``"none"`` lets every local user in.

        Raises:
            UserError: the address or port is not available, the token is no token, or there is none and other
                machines reach the page.
        """
        self.host, self.limits = host, limits
        self.token = _token(host, token)
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
        """Where the page is, with its token."""
        host = f"[{self.host}]" if ":" in self.host and not self.host.startswith("[") else self.host
        return f"http://{host}:{self.port}/" + ("" if self.token is None else f"?token={self.token}")

    def close(self) -> None:
        """Gives the port back."""
        self._socket.close()

    @contextmanager
    def running(self, answerer: Answerer, coverage: float) -> Iterator[str]:
        """Serves the page from another thread; in the end every file and every photograph is forgotten.

        Raises:
            UserError: this Gradio does not refuse paths of files that nobody uploaded.
        """
        with private_folder() as folder:
            page = build_page(answerer, self.visits, self.limits, coverage)
            close_file_paths(page)
            server = uvicorn.Server(
                uvicorn.Config(
                    self._application(page),
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
        app.add_middleware(Guard, token=self.token, largest_upload=self.limits.files * self.limits.file_bytes)
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
