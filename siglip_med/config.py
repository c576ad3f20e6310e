"""Checks a composed config against the signatures that it instantiates, before anything is read or written."""

import difflib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)

from siglip_med.errors import UserError

Settings = TypeVar("Settings", bound=BaseModel)
Node = dict[str, Any]
"""A config node with a ``_target_``, or named nodes: checked against the signatures that they name."""

_HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def config_dir() -> Path:
    """The folder of configs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def typed(config: DictConfig, settings: type[Settings]) -> Settings:
    """A composed config as typed settings of plain values, every interpolation resolved and every node checked.

    Args:
        config: the composed config.
        settings: the model of its top level.

    Raises:
        UserError: as `validate_config`.
    """
    validate_config(config, settings)
    return settings.model_validate(OmegaConf.to_container(config, resolve=True))


def flat(settings: BaseModel, left_out: tuple[str, ...] = ()) -> dict[str, str | int | float | bool]:
    """Settings as ``a.b.c -> value``, for a table of hyper-parameters.

    Args:
        settings: of a command.
        left_out: top-level keys that are no hyper-parameters.
    """

    def leaves(path: str, node: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(node, Mapping):
            for key, value in node.items():
                yield from leaves(f"{path}.{key}" if path else str(key), value)
        elif isinstance(node, bool | int | float | str):
            yield path, node
        elif isinstance(node, list | tuple):
            yield path, ", ".join(map(str, node))

    return {path: value for path, value in leaves("", settings.model_dump()) if path.split(".", 1)[0] not in left_out}


def validate_config(config: DictConfig, settings: type | None = None) -> None:
    """Checks every node that has a ``_target_``, and the top level against ``settings``.

    Args:
        config: the composed config.
        settings: a pydantic model of the top-level keys, or None to check the nodes alone.

    Raises:
        UserError: a value is missing, a key is unknown, or a type or range is wrong; the line names the key.
    """
    try:
        missing = sorted(_missing(config))
        plain = None if missing else OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(_one_line(str(error))) from error
    if missing:
        raise UserError(f"{missing[0]} has no value: give it on the command line, e.g. {missing[0]}=…")
    assert isinstance(plain, dict)
    if settings is not None:
        _check_value("", settings, plain)
    _walk("", plain)


def instantiate(node: Any, **given: Any) -> Any:
    """Hydra's ``instantiate``, but a `UserError` of what is built arrives as it was raised, not wrapped.

    Args:
        node: a config node with a ``_target_``.
        **given: arguments that the program provides.
    """
    try:
        return hydra.utils.instantiate(node, **given)
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        raise cause or error from None


def _missing(config: DictConfig) -> set[str]:
    return {key for key in OmegaConf.missing_keys(config) if not key.startswith("hydra.")}


def _walk(path: str, node: Any) -> None:
    if isinstance(node, Mapping):
        if "_target_" in node:
            _check_node(path, node)
        for key, value in node.items():
            _walk(f"{path}.{key}" if path else str(key), value)
    elif isinstance(node, list):
        for position, value in enumerate(node):
            _walk(f"{path}[{position}]", value)


def _check_node(path: str, node: Mapping[str, Any]) -> None:
    target = node["_target_"]
    try:
        function = hydra.utils.get_object(target)
    except Exception as error:  # Hydra raises whatever the import raised
        raise UserError(f"{path}._target_: cannot import {target!r} ({_one_line(str(error))})") from error
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    hints = _hints(function) if target.startswith("siglip_med.") else {}
    for key, value in node.items():
        if key in _HYDRA_KEYS:
            continue
        if key not in parameters:
            if open_ended:
                continue
            raise UserError(f"{path}.{key}: no such setting of {target}{_nearest(key, list(parameters))}")
        if key in hints and not _holds_target(value):
            _check_value(f"{path}.{key}", hints[key], value)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    source = function.__init__ if inspect.isclass(function) else function
    try:
        return typing.get_type_hints(source, include_extras=True)
    except NameError:  # a hint that only a type checker can resolve
        return {}


def _holds_target(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value or any(_holds_target(item) for item in value.values())
    return isinstance(value, list) and any(_holds_target(item) for item in value)


def _check_value(path: str, hint: Any, value: Any) -> None:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a model brings its own config
        adapter = TypeAdapter(hint)
    except PydanticSchemaGenerationError:  # a type that pydantic cannot describe is checked by the callee
        return
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        inner = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function-", "tuple[")))
        name = ".".join(part for part in (path, inner if not path else "") if part)
        if first["type"] == "extra_forbidden":
            known = list(getattr(hint, "model_fields", {}))
            raise UserError(f"{name}: no such setting{_nearest(inner, known)}") from error
        if first["type"] == "missing":
            raise UserError(f"{name}: the setting is missing; give it a value") from error
        raise UserError(f"{name}: {first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r}") from error


def _nearest(key: str, known: list[str]) -> str:
    known = [name for name in known if name not in {"self", "args", "kwargs"}]
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there is {', '.join(sorted(known))}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
