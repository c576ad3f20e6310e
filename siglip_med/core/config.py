"""Checks a composed config against the signatures that it instantiates, before anything is read or written."""

import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
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

from siglip_med.core.errors import UserError, one_line

Settings = TypeVar("Settings", bound=BaseModel)
Node = dict[str, Any]
"""A config node with a ``_target_``, or named nodes: checked against the signatures that they name."""

TARGET = "_target_"
_HYDRA_KEYS = {TARGET, "_partial_", "_recursive_", "_convert_", "_args_"}


@dataclass(frozen=True)
class Builds:
    """Annotates a `Node` of a settings model with what its ``_target_`` must build.

    Attributes:
        kind: class or protocol of what is built.
        each: the node holds named nodes, and every one of them must build it.
        given: arguments that the program gives; the config may leave them out.
    """

    kind: type
    each: bool = False
    given: tuple[str, ...] = ()


def config_dir() -> Path:
    """The folder of configs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def targets(node: Any) -> set[str]:
    """Every ``_target_`` of a plain config tree."""
    found = (value.get(TARGET) for _, value in values(node) if isinstance(value, Mapping))
    return {target for target in found if isinstance(target, str)}


def values(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a plain config tree with its path, ``a.b[0]``, each before what is in it."""
    yield path, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from values(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for position, value in enumerate(node):
            yield from values(value, f"{path}[{position}]")


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a plain config tree with its path, ``a.b``: all but mappings that hold something.

    A sequence is one setting, and a list: a checkpoint keeps lists where a config may have tuples.
    """
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, list(node) if isinstance(node, list | tuple) else node


def shipped_targets() -> frozenset[str]:
    """Every ``_target_`` that the package's own configs name."""
    found: set[str] = set()
    for path in config_dir().rglob("*.yaml"):
        found |= targets(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    return frozenset(found)


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
    return {
        path: ", ".join(map(str, value)) if isinstance(value, list) else value
        for path, value in leaves(settings.model_dump())
        if path.split(".", 1)[0] not in left_out and isinstance(value, bool | int | float | str | list)
    }


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
        raise UserError(one_line(error)) from error
    if missing:
        raise UserError(f"{missing[0]} has no value: give it on the command line, e.g. {missing[0]}=…")
    assert isinstance(plain, dict)
    for path, value in values(plain):
        _check_number(path, value)
    if settings is not None:
        check_value("", settings, plain)
    roots = {
        name: builds
        for name, field in getattr(settings, "model_fields", {}).items()
        for builds in field.metadata
        if isinstance(builds, Builds)
    }
    for path, value in values(plain):
        if isinstance(value, Mapping) and TARGET in value:
            _check_node(path, value, roots[path].given if path in roots else ())
    for name, builds in roots.items():
        nodes = {name: plain.get(name)}
        if builds.each:
            nodes = {f"{name}.{key}": node for key, node in (plain.get(name) or {}).items()}
        for path, node in nodes.items():
            if node is not None:
                _check_kind(path, builds.kind, node)


def instantiate(node: Any, **given: Any) -> Any:
    """Hydra's ``instantiate``, but a `UserError` of what is built arrives as it was raised, not wrapped.

    Args:
        node: a config node with a ``_target_``.
        **given: arguments that the program provides.
    """
    try:
        return hydra.utils.instantiate(node, _convert_="partial", **given)
    except InstantiationException as error:
        cause: BaseException | None = error.__cause__
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        raise cause or _of_a_library(error) or error from error.__cause__


def _of_a_library(error: InstantiationException) -> UserError | None:
    """Errors of a library about its arguments become one line; any other error is a bug and keeps its traceback."""
    found = re.search(r"call to target '([^']+)'", str(error))
    key = re.search(r"full_key: (\S+)", str(error))
    if found is None or not found[1].startswith(("lightning.", "torch.")) or error.__cause__ is None:
        return None
    return UserError(f"{key[1] if key else found[1]}: {one_line(error.__cause__)}")


def _missing(config: DictConfig) -> set[str]:
    return {key for key in OmegaConf.missing_keys(config) if not key.startswith("hydra.")}


def _check_number(path: str, value: Any) -> None:
    """No number of a config is nan or infinite, and none is beyond what libraries can count."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path}: must be a finite number, not {value}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{path}: must have fewer than 64 bits, not {value}")


def _target(path: str, node: Mapping[str, Any]) -> Callable[..., Any]:
    target = node[TARGET]
    try:
        function: Callable[..., Any] = hydra.utils.get_object(target)
    except Exception as error:  # Hydra raises whatever the import raised
        raise UserError(f"{path}.{TARGET}: cannot import {target!r} ({one_line(error)})") from error
    if not callable(function):
        raise UserError(f"{path}.{TARGET}: {target} is not something that can be called")
    return function


def _check_node(path: str, node: Mapping[str, Any], given: Collection[str]) -> None:
    arguments = {key: value for key, value in node.items() if key not in _HYDRA_KEYS}
    check_arguments(path, _target(path, node), node[TARGET], arguments, complete="_args_" not in node, given=given)


def check_arguments(
    path: str,
    function: Callable[..., Any],
    target: str,
    arguments: Mapping[str, Any],
    complete: bool = True,
    given: Collection[str] = (),
) -> None:
    """Checks the arguments of a call against the signature: names, types, ranges, and that none is missing.

    Args:
        path: key of the node, for messages.
        function: what would be called.
        target: its name, for messages.
        arguments: nodes in them that have a ``_target_`` are checked by what they would build.
        complete: whether all arguments are here, but for those that the program gives.
        given: names of those.

    Raises:
        UserError: an argument is unknown, missing, or of a wrong type or range.
    """
    try:
        parameters = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some built-in functions have none
        return
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if target.endswith(".TensorBoardLogger"):  # hands the rest on
        from torch.utils.tensorboard import SummaryWriter

        parameters, open_ended = {**inspect.signature(SummaryWriter).parameters, **parameters}, False
    hints = _hints(function)
    for key, value in arguments.items():
        if key not in parameters:
            if open_ended:
                continue
            raise UserError(f"{path}.{key}: no such setting of {target}{_nearest(str(key), list(parameters))}")
        if key in hints:
            _check_argument(f"{path}.{key}", hints[key], value)
    for name, parameter in parameters.items():
        positional = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        required = positional and parameter.default is inspect.Parameter.empty
        if complete and required and name not in arguments and name not in given:
            raise UserError(f"{path}.{name}: the setting is missing; {target} needs a value")


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    source = function.__init__ if inspect.isclass(function) else function
    try:
        return typing.get_type_hints(source, include_extras=True)
    except (NameError, TypeError):  # a hint that only a type checker can resolve
        return {}


def _check_argument(path: str, hint: Any, value: Any) -> None:
    parts = [kind for kind in _classes(hint) if kind.__module__ != "builtins"]
    if isinstance(value, Mapping) and parts and not any(issubclass(kind, Mapping | BaseModel) for kind in parts):
        _check_kind(path, hint, value)  # a node whose _target_ is missing or misspelled
    elif not holds_target(value):
        check_value(path, hint, value)
    elif isinstance(value, Mapping) and TARGET in value:
        _check_kind(path, hint, value)
    elif isinstance(value, Mapping) and inspect.isclass(typing.get_origin(hint)):
        arguments = typing.get_args(hint)
        if issubclass(typing.get_origin(hint), Mapping) and len(arguments) == 2:
            for key, item in value.items():
                _check_argument(f"{path}.{key}", arguments[1], item)


def _check_kind(path: str, hint: Any, node: Any) -> None:
    """What a node builds must be what is asked for: a loss is no model."""
    if not (isinstance(node, Mapping) and TARGET in node):
        raise UserError(f"{path}: give a node with a {TARGET}, as the files of conf/ have, not {str(node)[:80]}")
    wanted = _classes(hint)
    function = _target(path, node)
    built = function if inspect.isclass(function) else _hints(function).get("return")
    if node.get("_partial_") or not wanted or not inspect.isclass(built):
        return
    try:
        fits = any(issubclass(built, kind) for kind in wanted)
    except TypeError:  # a protocol that cannot be asked
        return
    if not fits:
        names = " or ".join(kind.__name__ for kind in wanted if kind is not type(None))
        raise UserError(f"{path}.{TARGET}: {node[TARGET]} builds no {names}")


def _classes(hint: Any) -> list[type]:
    """The classes that a hint allows; none where anything may do."""
    hint = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = [_classes(item) for item in typing.get_args(hint)]
        return [kind for kinds in found for kind in kinds] if all(found) else []
    return [hint] if inspect.isclass(hint) and hint is not object and typing.get_origin(hint) is None else []


def holds_target(value: Any) -> bool:
    """Whether a plain value is, or holds, a node to be built."""
    if isinstance(value, Mapping):
        return TARGET in value or any(holds_target(item) for item in value.values())
    return isinstance(value, list) and any(holds_target(item) for item in value)


def check_value(path: str, hint: Any, value: Any) -> None:
    """Checks a plain value against a type.

    Args:
        path: key of the setting, for messages.
        hint: the type, or a model of several settings.
        value: as the config has it.

    Raises:
        UserError: it is of another type, or out of range.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a model brings its own config
        adapter = TypeAdapter(hint)
    except PydanticSchemaGenerationError:  # a type that pydantic cannot describe is checked by the callee
        return
    try:
        understood = adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        inner = ".".join(
            str(part)
            for part in first["loc"]
            if not str(part).startswith(("function-", "tuple[", "list[", "dict[", "literal["))
        )
        name = ".".join(part for part in (path, inner if not path else "") if part)
        if first["type"] == "extra_forbidden":
            known = list(getattr(hint, "model_fields", {}))
            raise UserError(f"{name}: no such setting{_nearest(inner, known)}") from error
        if first["type"] == "missing":
            raise UserError(f"{name}: the setting is missing; give it a value") from error
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(
            f"{name}: {message[0].lower()}{message[1:]}, not {one_line(repr(first['input']), 200)}"
        ) from error
    _check_reading(path, value, understood)


def _check_reading(path: str, value: Any, understood: Any) -> None:
    """A text that reads like a number, or a truth value for a number: the callee would get what was written."""
    if isinstance(understood, BaseModel):
        understood = {name: getattr(understood, name) for name in type(understood).model_fields}
    if isinstance(value, Mapping) and isinstance(understood, Mapping):
        for key, item in value.items():
            if key in understood:
                _check_reading(f"{path}.{key}" if path else str(key), item, understood[key])
    elif isinstance(value, list) and isinstance(understood, list | tuple):
        for position, (item, other) in enumerate(zip(value, understood, strict=False)):
            _check_reading(f"{path}[{position}]", item, other)
    elif isinstance(understood, bool | int | float) and type(value) not in (type(understood), int):
        kind = {"bool": "true or false", "int": "a whole number", "float": "a number"}[type(understood).__name__]
        raise UserError(f"{path}: give {kind}, not {value!r}")
    elif isinstance(understood, bool) and type(value) is int:
        raise UserError(f"{path}: give true or false, not {value!r}")


def _nearest(key: str, known: list[str]) -> str:
    known = [name for name in known if name not in {"self", "args", "kwargs"}]
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there is {', '.join(sorted(known))}"
