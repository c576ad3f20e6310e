"""open_clip's own modules, file by file: the package as a whole needs torchvision, of which its models use nothing."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from siglip_med.models.conversion import convert
from tests.models.their_timm import torchvision


def part(name: str) -> ModuleType:
    """A file of open_clip, such as ``model``; the test is skipped where the package is not installed."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        pytest.skip("open_clip is not installed: the comparison with its model needs it")
    parts = sys.modules.setdefault("open_clip_parts", ModuleType("open_clip_parts"))
    parts.__path__ = [str(Path(package.origin).parent)]
    with torchvision():  # around timm's import too: open_clip goes on without timm, once and for all, where that fails
        return importlib.import_module(f"open_clip_parts.{name}")


def converted(folder: Path) -> str:
    """A folder beside it that transformers reads: a new one at every call."""
    number = len(list(folder.parent.glob(f"{folder.name}_as_*")))
    return str(convert(str(folder), folder.with_name(f"{folder.name}_as_{number}")).folder)


def change(folder: Path, key: str, value: Any) -> None:
    """Sets one value of a folder's ``model_cfg``, named ``part.key``."""
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    part = content["model_cfg"]
    *inner, last = key.split(".")
    for name in inner:
        part = part[name]
    part[last] = value
    path.write_text(json.dumps(content))
