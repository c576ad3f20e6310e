"""What ``--help`` prints: what a command does, examples, settings and groups, from the comments of the configs."""

import ast
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

_COMMANDS = Path(__file__).parents[1] / "commands"
WORDS = frozenset({"--help", "-h"})


def wants_help(words: Sequence[str]) -> bool:
    """Whether a command line contains ``--help`` or ``-h``."""
    return bool(WORDS & set(words))


def help_text(folder: Path, command: str) -> str:
    """The page of one command.

    Args:
        folder: of the configs.
        command: name of a file in ``conf/`` and in ``siglip_med/commands/``, such as ``train``.
    """
    lines = (folder / f"{command}.yaml").read_text(encoding="utf-8").splitlines()
    body = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    parts = [
        _purpose(command),
        "Examples:\n" + "\n".join(f"  {line.lstrip('# ')}" for line in lines[:body]),
        "Settings (key=value; ??? has to be given; a + before the key adds one that is not there):\n"
        + "\n".join(f"  {line}".rstrip() for line in [*_settings(lines[body:]), *_shared(folder, lines)]),
    ]
    groups = _groups(lines)
    if groups:
        parts.append(
            "Groups (group=option; group.key=value changes one setting of it):\n"
            + "\n".join(line for group, chosen in groups for line in _options(folder, group, chosen))
        )
    parts.append("Also: --cfg job prints the whole config and runs nothing; -m runs a sweep (key=1,2,3).")
    return "\n\n".join(parts) + "\n"


def version_line() -> str:
    """Name and version of the installed package."""
    return f"siglip-med {version('siglip-med')}"


def overview() -> str:
    """All commands with their first sentences, and how to go on."""
    names = sorted(path.stem for path in _COMMANDS.glob("*.py") if path.stem != "__init__")
    lines = [f"  siglip-med-{name:<10}{_purpose(name)}\n" for name in names]
    return f"{version_line()}\n\n{''.join(lines)}\nsiglip-med-train --help lists the settings of a command.\n"


def _purpose(command: str) -> str:
    source = (_COMMANDS / f"{command}.py").read_text(encoding="utf-8")  # to import it takes seconds
    return (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]


def _settings(lines: Sequence[str]) -> list[str]:
    """The lines of a config without its defaults list and Hydra's own node."""
    shown, skipping = [], False
    for line in lines:
        if line and not line[0].isspace():
            skipping = line.startswith(("defaults:", "hydra:"))
        if not skipping:
            shown.append(line)
    return "\n".join(shown).strip("\n").splitlines()


def _shared(folder: Path, lines: Sequence[str]) -> list[str]:
    """The settings of the configs that a defaults list takes in whole."""
    named = [line.strip().removeprefix("- ") for line in lines if line.startswith("  - _")]
    shown: list[str] = []
    for name in named:
        if name != "_self_":
            shown += ["", *_settings((folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[1:])]
    return shown


def _groups(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Groups of a defaults list with the option that each starts with."""
    found, inside = [], False
    for line in lines:
        if line and not line[0].isspace():
            inside = line.startswith("defaults:")
        words = line.split("#")[0].strip().removeprefix("- ").removeprefix("optional ").removeprefix("override ")
        if inside and line.strip().startswith("- ") and ": " in words:
            group, option = words.split(": ", 1)
            found.append((group.strip("/ "), option.strip()))
    return found


def _options(folder: Path, group: str, chosen: str) -> list[str]:
    """One line per group, and one per option with the first sentence of its file."""
    files = sorted(path for path in (folder / group).glob("*.yaml") if not path.name.startswith("_"))
    lines = [f"  {group} (default: {chosen})"]
    for path in files:
        text = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package")]
        about = text[0].lstrip("# ") if text and text[0].startswith("#") else ""
        lines.append(f"    {path.stem:<18}{about}".rstrip())
    return lines
