"""The trust boundary: what a config that comes out of a file may cause to be built.

A checkpoint may come from anybody, and a config can name any function that Python can import. So nothing of a stored
config goes through Hydra. Its tree must be plain (no interpolation, so no resolver and no environment variable; no
``_args_``, ``_partial_`` or other directive), and every ``_target_`` in it must be one of the builders that the caller
hands over: `builders` names them, and nothing is imported by a name that a file gives. Code of one's own is built where
the person at the keyboard names it: `vouched`.
"""

import inspect
import re
import sys
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from hydra.utils import get_object

from siglip_med.core.config import TARGET, check_arguments, targets
from siglip_med.core.errors import UserError, one_line

Builders = Mapping[str, Callable[..., Any]]
"""Every name under which a config may call a builder, and the builder."""


def builders(*roots: Callable[..., Any], parts: Iterable[Callable[..., Any]] = ()) -> Builders:
    """The allow-list of some builders: they, the classes in their signatures, and the given parts.

    Args:
        roots: factories and classes whose parameters name what else may be built, e.g. `siglip` takes a `Lora`.
        parts: implementations of what signatures name by a protocol alone, e.g. the splitters.
    """
    found: dict[str, Callable[..., Any]] = {}
    waiting = [*roots, *parts]
    while waiting:
        builder = waiting.pop()
        if builder not in found.values():
            found |= dict.fromkeys(_names(builder), builder)
            waiting += _asked_for(builder)
    return found


def vouched(names: Sequence[str]) -> Builders:
    """What the owner of a file lets it build besides: code of their own, which is imported here.

    Args:
        names: dotted names as a ``_target_`` has them, e.g. ``my_towers.mine``: the setting ``trust`` of a command.

    Raises:
        UserError: a name is none, belongs to Python itself, or cannot be imported.
    """
    found: dict[str, Callable[..., Any]] = {}
    for name in names:
        if not _is_own(name):
            raise UserError(f"trust: {name!r} names no code of your own, as trust=[my_towers.mine] does")
        try:
            builder = get_object(name)
        except Exception as error:  # whatever the import of somebody's code raises
            raise UserError(f"trust: cannot import {name} ({one_line(error)}); set PYTHONPATH") from error
        if not callable(builder):
            raise UserError(f"trust: {name} is not something that can be called")
        found |= {**builders(builder), name: builder}
    return found


def _is_own(name: object) -> bool:
    """Whether a dotted name may be of somebody's own code: well formed, and no module of Python's own."""
    well_formed = isinstance(name, str) and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name)
    return bool(well_formed) and str(name).partition(".")[0] not in sys.stdlib_module_names


def _remedy(node: Any, allowed: Collection[str]) -> str:
    """How to vouch for what a config names; nothing where no owner could."""
    foreign = sorted(targets(node) - set(allowed))
    return f"; if this is code of your own, add trust=[{','.join(foreign)}]" if all(map(_is_own, foreign)) else ""


def check_trusted(node: Any, allowed: Collection[str], where: str, source: str) -> None:
    """Walks a stored config, and refuses whatever is neither plain nor one of the builders.

    Args:
        node: of any shape, as the file gives it.
        allowed: names of what it may build, e.g. of `builders`.
        where: key of the node, for the message.
        source: the file, for the message.

    Raises:
        UserError: the config would call something else, or is not plain.
    """
    _check(node, allowed, where, source, node)


def _check(node: Any, allowed: Collection[str], where: str, source: str, root: Any) -> None:
    refused = f"refused to load {source}:"
    if isinstance(node, Mapping):
        for key, value in node.items():
            path = f"{where}.{key}" if where else f"{key}"
            if not isinstance(key, str | int | float):
                raise UserError(f"{refused} a key of its config at {where} is a {type(key).__name__}")
            _check(str(key), allowed, where, source, root)
            if key == TARGET:
                if not (isinstance(value, str) and value in allowed):
                    called = f"{refused} its config at {where or 'the top'} would call {value!r}"[:400]
                    raise UserError(called + (_remedy(root, allowed) if isinstance(value, str) else ""))
            elif isinstance(key, str) and key.startswith("_") and key.endswith("_"):
                raise UserError(f"{refused} its config holds the directive {path}")
            else:
                _check(value, allowed, path, source, root)
    elif isinstance(node, list | tuple):
        for position, value in enumerate(node):
            _check(value, allowed, f"{where}[{position}]", source, root)
    elif isinstance(node, str):
        if "${" in node:
            raise UserError(f"{refused} its config at {where} holds the interpolation {node!r}"[:400])
    elif not (node is None or isinstance(node, bool | int | float)):
        raise UserError(f"{refused} its config at {where} holds a {type(node).__name__}, not a plain value")


def build_trusted(node: Any, allowed: Builders, where: str, source: str, **given: Any) -> Any:
    """Builds a node of a stored config, once all of it has been checked.

    Args:
        node: with a ``_target_`` among the allowed ones.
        allowed: see `builders`.
        where: key of the node, for messages.
        source: the file, for messages.
        **given: arguments that the program provides; they win over the node's.

    Raises:
        UserError: as `check_trusted`; or an argument is unknown or of a wrong type or range.
    """
    check_trusted(node, allowed, where, source)
    if not (isinstance(node, Mapping) and TARGET in node):
        raise UserError(f"{source}: its config has no {where} that could be built")
    return _build({**node, **given}, allowed, where)


def _build(node: Any, allowed: Builders, path: str) -> Any:
    if isinstance(node, Mapping):
        built = {key: _build(value, allowed, f"{path}.{key}") for key, value in node.items() if key != TARGET}
        if TARGET not in node:
            return built
        builder = allowed[node[TARGET]]
        check_arguments(path, builder, node[TARGET], built)
        return builder(**built)
    if isinstance(node, list | tuple):
        return [_build(value, allowed, f"{path}[{position}]") for position, value in enumerate(node)]
    return node


def _names(builder: Callable[..., Any]) -> list[str]:
    """Its own dotted name, and those that the packages around it may offer it under; none is ever imported."""
    module, name = builder.__module__, builder.__name__
    parts = module.split(".")
    return [f"{'.'.join(parts[:length])}.{name}" for length in range(len(parts), 0, -1)]


def _asked_for(builder: Callable[..., Any]) -> list[Callable[..., Any]]:
    source = builder.__init__ if inspect.isclass(builder) else builder
    hints = typing.get_type_hints(source)
    hints.pop("return", None)
    return [item for hint in hints.values() for item in _classes(hint) if _is_ours(item)]


def _classes(hint: Any) -> list[type]:
    if inspect.isclass(hint) and not typing.get_args(hint):
        return [hint]
    return [item for argument in typing.get_args(hint) for item in _classes(argument)]


def _is_ours(item: type) -> bool:
    return item.__module__.startswith("siglip_med.") and not getattr(item, "_is_protocol", False)
