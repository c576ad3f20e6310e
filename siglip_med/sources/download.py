"""Fetches files over https: checked when they arrive, never half-written; a second call fetches what is missing."""

import base64
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPMessage
from pathlib import Path

from siglip_med.core.errors import UserError, one_line
from siglip_med.core.files import write_bytes
from siglip_med.core.progress import tracked

_PERMANENT = frozenset(range(400, 500)) - {408, 429}


def download_all(
    addresses: Mapping[Path, str], *, workers: int = 8, title: str = "downloading", attempts: int = 4, wait: float = 1.0
) -> None:
    """Fetches what is not there yet, several files at a time.

    Args:
        addresses: address by the path of the file; a path that exists was fetched whole and is skipped.
        workers: files at a time.
        title: of the progress line.
        attempts: tries per file.
        wait: seconds before the second try; doubled before each further one.

    Raises:
        UserError: a file could not be fetched; those that were are kept, and the same call fetches the rest.
    """
    missing = {path: url for path, url in addresses.items() if not path.exists()}
    with ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(fetch, url, path, attempts=attempts, wait=wait) for path, url in missing.items()]
        try:
            for task in tracked(tasks, title, "files", shown=bool(tasks)):
                task.result()
        finally:
            pool.shutdown(cancel_futures=True)


def fetch(url: str, path: Path, *, attempts: int = 4, wait: float = 1.0) -> None:
    """Fetches one file to ``path``.

    The size is checked against the server's, and the MD5 where the server gives one (``x-goog-hash``).

    Raises:
        UserError: no such file on the server, or the last attempt failed; the line names the address.
    """
    if not url.startswith(("https://", "http://")):
        raise UserError(f"{url}: not an http(s) address; check data.source.download_url")
    reason = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                content: bytes = response.read()  # raises where the connection ends before Content-Length
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code in _PERMANENT:
                break
        except (http.client.HTTPException, OSError) as error:
            reason = one_line(error)
        else:
            if _md5(response.headers) in (None, hashlib.md5(content).digest()):
                write_bytes(path, content)
                return
            reason = "what arrived does not have the server's checksum"
    raise UserError(f"{url}: could not be fetched ({reason}); run the same command again to resume")


def _md5(headers: HTTPMessage) -> bytes | None:
    """The checksum that Google Cloud Storage sends: ``x-goog-hash: crc32c=…,md5=…``, in one header or in two."""
    hashes = [value.strip() for line in headers.get_all("x-goog-hash", []) for value in line.split(",")]
    given = next((value.removeprefix("md5=") for value in hashes if value.startswith("md5=")), None)
    return None if given is None else base64.b64decode(given)
