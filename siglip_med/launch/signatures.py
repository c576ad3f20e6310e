"""Types of settings, looked up in the source of what a config names: a wrong one is a line before seconds of imports.

What only an import can tell is left to `siglip_med.core.config.validate_config`, which checks every setting again.
"""

import ast
import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from siglip_med.core.config import TARGET, check_value, holds_target

_QUICK = frozenset({"typing", "collections.abc", "pathlib", "pydantic", "siglip_med.core.ranges"})
"""Modules whose names types are made of, and which are imported in no time."""
_UNKNOWN = (LookupError, NameError, TypeError, ValueError, AttributeError, OSError, SyntaxError, OmegaConfBaseException)
"""Source code does not tell the type, or the config not the value."""


def check_types(command: str, config: DictConfig, words: Sequence[str]) -> None:
    """Checks the settings that a command line names, as far as source code tells their types.

    Args:
        command: the command, whose module has ``Settings``.
        config: what the words compose.
        words: settings of the command line, ``key=value``.

    Raises:
        UserError: a value is of a wrong type or out of range, in the words of `validate_config`.
    """
    for word in words:
        keys = word.lstrip("+~").split("=", 1)[0].split(".")
        try:
            key, hint = _hint(command, config, keys)
            value = OmegaConf.select(config, key)
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except _UNKNOWN:
            continue
        if not isinstance(hint, str) and not holds_target(value):
            check_value(key, hint, value)


def _hint(command: str, config: DictConfig, keys: Sequence[str]) -> tuple[str, Any]:
    """The longest part of a key that has a type, with that type."""
    parts = list(keys)
    definition = _Names.of(f"siglip_med.commands.{command}").definition("Settings")
    for end in range(len(keys) - 1, 0, -1):
        node = OmegaConf.select(config, ".".join(keys[:end]))
        if isinstance(node, DictConfig) and TARGET in node:
            module, _, name = node[TARGET].rpartition(".")
            definition, parts = _Names.of(module).definition(name), list(keys[end:])
            break
    while True:
        names, annotation = _annotation(*definition, parts.pop(0))
        if not (parts and isinstance(annotation, ast.Name)):
            return ".".join(keys[: len(keys) - len(parts)]), names.value(annotation)
        definition = names.definition(annotation.id)


def _annotation(names: "_Names", node: ast.AST, argument: str) -> tuple["_Names", ast.expr]:
    """The type of an argument of a function, or of a class by its ``__init__``, fields or bases."""
    if isinstance(node, ast.ClassDef):
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                return _annotation(names, item, argument)
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id == argument:
                return names, item.annotation
        for base in node.bases:
            if isinstance(base, ast.Name):
                try:
                    return _annotation(*names.definition(base.id), argument)
                except _UNKNOWN:
                    continue
    elif isinstance(node, ast.FunctionDef):
        for one in (*node.args.args, *node.args.kwonlyargs):
            if one.arg == argument and one.annotation is not None:
                return names, one.annotation
    raise LookupError(argument)


class _Names:
    """What the names at the top of a module's source mean, where nothing slow need be imported for it."""

    def __init__(self, module: str) -> None:
        top, *rest = module.split(".")
        spec = importlib.util.find_spec(top)  # of a package that is imported, or not: it is not imported here
        places = [] if spec is None else spec.submodule_search_locations or []
        path = Path(places[0]).joinpath(*rest)
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        self._found: dict[str, ast.AST] = {}
        self._imported: dict[str, tuple[str, str]] = {}
        for node in _statements(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                self._imported |= {one.asname or one.name: (node.module, one.name) for one in node.names}
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                self._found[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._found[node.targets[0].id] = node.value

    @staticmethod
    @cache
    def of(module: str) -> "_Names":
        return _Names(module)

    def definition(self, name: str) -> tuple["_Names", ast.AST]:
        """The class or function that a name means, and the names around it."""
        if name in self._imported:
            module, original = self._imported[name]
            return _Names.of(module).definition(original)
        return self, self._found[name]

    def value(self, expression: ast.expr) -> Any:
        """What an expression means; NameError where a class must be imported for it."""
        names = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
        known = {name: self._meaning(name) for name in names & (self._imported.keys() | self._found.keys())}
        return eval(compile(ast.Expression(expression), "<type>", "eval"), known)  # of an installed module's own source

    def _meaning(self, name: str) -> Any:
        if name in self._imported:
            module, original = self._imported[name]
            quick = module in _QUICK
            return getattr(importlib.import_module(module), original) if quick else _Names.of(module)._meaning(original)
        node = self._found[name]
        if not isinstance(node, ast.expr):
            raise NameError(name)
        return self.value(node)


def _statements(node: ast.Module | ast.If) -> Iterator[ast.stmt]:
    for statement in node.body:
        yield from _statements(statement) if isinstance(statement, ast.If) else (statement,)
