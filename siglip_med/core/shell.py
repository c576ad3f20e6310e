"""Settings as one types them: quotes for Hydra inside, quotes for the shell outside."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException


def quoted(word: str) -> str:
    """How to type a setting whose value has characters of Hydra's own: quotes for Hydra, quotes for the shell."""
    key, _, value = word.partition("=")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return shlex.quote(f"{key}={in_quotes(value)}")


def in_quotes(value: str) -> str:
    """A value in double quotes, as Hydra reads it."""
    inner = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inner}"'


def setting(key: str, value: str | os.PathLike[str]) -> str:
    """``key=value`` as one types it in a shell, quoted where it has to be."""
    word = f"{key}={os.fspath(value)}"
    try:
        plain = OverridesParser.create().parse_override(word)
        same = not plain.is_sweep_override() and plain.value() == os.fspath(value)
    except HydraException:
        same = False
    return shlex.quote(word) if same else quoted(word)


def other_command(name: str) -> str:
    """How the user of this process types another command: as a script of the checkout, or as an installed one."""
    return f"siglip-med-{name}" if Path(sys.argv[0]).name.startswith("siglip-med") else f"python {name}.py"


def typed_words(*groups: str) -> dict[str, str]:
    """What the user of this process typed for some groups of settings: key -> word, quoted for a shell."""
    words = (word for word in sys.argv[1:] if "=" in word and not word.startswith("-"))
    keyed = ((word.partition("=")[0].lstrip("+~"), word) for word in words)
    return {key: shlex.quote(word) for key, word in keyed if re.split("[./@]", key)[0] in groups}


def mapping(key: str, items: Mapping[str, str | None]) -> str | None:
    """``key={name: value, …}`` as one types it in a shell; None where Hydra has no way to write such a name."""
    pairs = (f"{name}: {'null' if value is None else in_quotes(value)}" for name, value in items.items())
    word = f"{key}={{{', '.join(pairs)}}}"
    try:
        fits = OverridesParser.create().parse_override(word).value() == dict(items)
    except HydraException:
        fits = False
    return shlex.quote(word) if fits else None


def null_groups_removed(folder: Path, config_name: str, words: Sequence[str]) -> list[str]:
    """The command line with ``group=null`` as Hydra takes it: ``~group``, or nothing where the group is off anyway.

    Args:
        folder: the folder of configs.
        config_name: the primary config.
        words: the command line.
    """
    on = set()
    config = yaml.safe_load((folder / f"{config_name}.yaml").read_text(encoding="utf-8"))
    for entry in config.get("defaults", []):
        if isinstance(entry, dict):
            on |= {str(key).split()[-1].lstrip("/") for key, value in entry.items() if value is not None}
    result = []
    for word in words:
        group, _, value = word.partition("=")
        if value.strip() not in ("null", "~") or not (folder / group).is_dir():
            result.append(word)
        elif group in on:
            result.append(f"~{group}")
    return result
