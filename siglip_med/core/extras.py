"""Packages that one feature needs and a plain install leaves out: imported where used, or one line tells why not."""

import importlib
from typing import Any

from siglip_med.core.errors import UserError, one_line


def require(package: str, feature: str, extra: str) -> Any:
    """Imports a package of an extra.

    Args:
        package: the module's name, e.g. ``"onnxruntime"``.
        feature: what needs it, as the user asked for it, e.g. ``"format=onnx"``.
        extra: of this project, that installs it.

    Returns:
        The module.

    Raises:
        UserError: the package, or one that it needs, is missing or does not load.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(missing(error.name or package, feature, extra)) from error
    except ImportError as error:  # it is there, but not for this Python, this machine or its own dependencies
        message = one_line(error)
        raise UserError(
            f"{feature} needs {package}, which is installed but does not load ({message}): "
            f"pip install --upgrade 'siglip-med[{extra}]'"
        ) from error


def missing(package: str, feature: str, extra: str) -> str:
    """The line that names the package that a feature lacks and how to install it."""
    return f"{feature} needs {package}: pip install 'siglip-med[{extra}]'"
