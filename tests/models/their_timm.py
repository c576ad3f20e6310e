"""timm itself, for comparisons: it and open_clip import torchvision, of which their models use nothing."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from unittest.mock import MagicMock

import pytest


class _Named(type):
    """A class whose every attribute is its own name: enough for members of an enumeration."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        return name


class _Stand(ModuleType):
    """A module of torchvision that has whatever it is asked for."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Named(name, (), {}) if name[0].isupper() else MagicMock()


class _Finder:
    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, _Finder, is_package=True) if name.split(".")[0] == "torchvision" else None  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        return _Stand(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        pass


@contextmanager
def torchvision() -> Iterator[None]:
    """Something stands for torchvision where it is not installed, for imports that name it and never use it."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.meta_path.remove(_Finder)  # type: ignore[arg-type]
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]


def timm(part: str = "timm") -> ModuleType:
    """A module of timm; the test is skipped where it is not installed: only ``make setup`` installs it."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed: the comparison needs it")
    with torchvision():
        importlib.import_module("timm")
        return importlib.import_module(part)
