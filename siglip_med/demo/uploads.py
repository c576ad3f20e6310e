"""The folder that dropped files pass through: read once, then gone."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from siglip_med.core.errors import UserError

ABANDONED = 60.0
"""Seconds after which a file that nobody asked about is deleted."""

_FOLDER = "GRADIO_TEMP_DIR"
_SILENT = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "GRADIO_SHARE": "False"}
"""Gradio reports nothing to anybody, stores no answer in the visitor's browser, and opens no tunnel."""


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of this page alone, readable by its owner, that Gradio puts uploads into; deleted in the end.

    Gradio learns of it by an environment variable alone, and so of what else it must not do.
    """
    with tempfile.TemporaryDirectory(prefix="siglip-med-demo-") as folder:
        settings = {_FOLDER: str(Path(folder).resolve()), **_SILENT}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield Path(settings[_FOLDER])
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def take(path: Path, largest: int) -> bytes:
    """The content of an uploaded file, which is deleted whatever happens; a UserError if it is too large or gone."""
    try:
        size = path.stat().st_size
        if size > largest:
            raise UserError(f"{path.name} has {size / 2**20:.1f} MB, more than the limit of {largest / 2**20:g} MB.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path.name} is no longer there ({error.strerror}); drop it again.") from error
    finally:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # a file of the same content and another name is there and not yet read
            path.parent.rmdir()


def sweep(folder: Path, age: float = ABANDONED) -> None:
    """Deletes uploads that nobody asked about, once older than ``age`` seconds: younger ones may still be coming in."""
    oldest = time.time() - age
    for path in folder.iterdir():
        try:
            if path.stat().st_mtime > oldest:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        except FileNotFoundError:  # read, and so deleted, meanwhile
            continue
