"""Fetches files over https: resumed where a transfer broke off, checked when it arrived, never half-written."""

import base64
import hashlib
import http
import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPMessage
from pathlib import Path

from rich.progress import track

from siglip_med.core.errors import UserError

_BLOCK = 1 << 20
_PERMANENT = range(400, 500)


@dataclass(frozen=True)
class Download:
    """One file to fetch: where it is, and where it goes."""

    url: str
    path: Path


class _BrokenOff(Exception):
    """A transfer ended early or damaged; what arrived is kept for the next attempt where it can be."""


def download_all(
    downloads: Sequence[Download], *, workers: int = 8, title: str = "downloading", attempts: int = 4, wait: float = 1.0
) -> None:
    """Fetches what is not there yet, several files at a time, under a progress bar.

    Args:
        downloads: files to fetch; one whose path exists was fetched whole and is passed over.
        workers: files at a time.
        title: what the progress bar says.
        attempts: tries a file, each going on where the last broke off.
        wait: seconds before the second try; doubled before each further one.

    Raises:
        UserError: a file could not be fetched; those that were are kept, and the same call goes on with the rest.
    """
    missing = [download for download in downloads if not download.path.exists()]
    if not missing:
        return
    with ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(fetch, item.url, item.path, attempts=attempts, wait=wait) for item in missing]
        try:
            for task in track(tasks, description=title):
                task.result()
        except BaseException:
            for task in tasks:
                task.cancel()
            raise


def fetch(url: str, path: Path, *, attempts: int = 4, wait: float = 1.0) -> None:
    """Fetches one file to ``path``; a ``.part`` file beside it holds what has arrived so far.

    The size is checked against the server's, and the MD5 where the server gives one (``x-goog-hash``). A resumed
    transfer asks with ``If-Range``, so that a file that changed meanwhile starts anew.

    Raises:
        UserError: no such file on the server, or the last attempt failed; the line names the address.
    """
    if not url.startswith(("https://", "http://")):
        raise UserError(f"{url}: not an http(s) address; check data.source.download_url")
    path.parent.mkdir(parents=True, exist_ok=True)
    reason = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            _attempt(url, path)
            return
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code in _PERMANENT and error.code not in (408, 429):
                break
        except (_BrokenOff, urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
    raise UserError(f"{url}: could not be fetched ({reason}); run the same command again to go on")


def _attempt(url: str, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    tag = path.with_name(path.name + ".part.etag")
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag.read_text())
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink()
        raise _BrokenOff("the file on the server is shorter than what had arrived") from error
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        etag = response.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):  # a weak tag cannot vouch for a range
            tag.write_text(etag)
        else:
            tag.unlink(missing_ok=True)
        size = _size(response.headers, have if resumed else 0)
        with part.open("ab" if resumed else "wb") as file:
            shutil.copyfileobj(response, file, _BLOCK)
    arrived = part.stat().st_size
    if size is not None and arrived < size:
        raise _BrokenOff(f"{arrived:,} of {size:,} bytes arrived")
    _check(part, arrived, size, response.headers)
    part.replace(path)
    tag.unlink(missing_ok=True)


def _size(headers: HTTPMessage, offset: int) -> int | None:
    length = headers.get("Content-Length")
    return None if length is None else offset + int(length)


def _check(part: Path, arrived: int, size: int | None, headers: HTTPMessage) -> None:
    expected = _md5(headers)
    if (size is not None and arrived != size) or (expected is not None and _file_md5(part) != expected):
        part.unlink()
        raise _BrokenOff("what arrived does not have the server's size or checksum")


def _md5(headers: HTTPMessage) -> bytes | None:
    """The checksum that Google Cloud Storage sends: ``x-goog-hash: crc32c=…,md5=…``, in one header or in two."""
    hashes = [value.strip() for line in headers.get_all("x-goog-hash", []) for value in line.split(",")]
    given = next((value.removeprefix("md5=") for value in hashes if value.startswith("md5=")), None)
    return None if given is None else base64.b64decode(given)


def _file_md5(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").digest()
