"""Public names that are imported when they are first asked for: some of the libraries behind them take seconds."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose names live in modules that are imported late (PEP 562).

    Args:
        package: its ``__name__``, for the message.
        homes: public name -> the module that has it.
    """

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return __getattr__
