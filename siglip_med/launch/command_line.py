"""The command line, checked word by word before anything runs, and the run folder that it is given."""

import difflib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from siglip_med.core.config import leaves
from siglip_med.core.errors import UserError, one_line
from siglip_med.core.extras import missing
from siglip_med.core.shell import in_quotes, null_groups_removed, quoted
from siglip_med.launch.signatures import check_types

_LAUNCHERS = {
    "joblib": ("hydra-joblib-launcher", "launcher=parallel", "parallel"),
    "submitit_slurm": ("hydra-submitit-launcher", "launcher=slurm", "slurm"),
}
"""Hydra's launcher -> package, feature and extra."""
SWEEP = frozenset({"-m", "--multirun"})
CONFIG_DIR = frozenset({"-cd", "--config-dir"})


def own_configs_first(folder: Path, words: Sequence[str]) -> list[str]:
    """The command line with ``--config-dir FOLDER`` (``-cd``) as the setting that Hydra makes of it.

    A setting is composed wherever the command line is: when it is checked, when a run to resume is looked for, and
    in every job of a sweep. Left as a flag, Hydra's own main alone would know the folder.

    Args:
        folder: the folder of the shipped configs.
        words: the command line after the script's name.

    Raises:
        UserError: the folder is not there, one of its files has the name of a shipped one, which Hydra would read
            in its place, or the flag is given twice or beside ``hydra.searchpath``.
    """
    rest: list[str] = []
    folders: list[str] = []
    remaining = iter(words)
    for word in remaining:
        flag, equals, value = word.partition("=")
        if flag in CONFIG_DIR:
            folders.append(value if equals else next(remaining, ""))
        else:
            rest.append(word)
    if not folders:
        return rest
    if len(folders) > 1 or any(word.lstrip("+").startswith("hydra.searchpath=") for word in rest):
        raise UserError("--config-dir: one folder can be given; for several use hydra.searchpath=[file://…,file://…]")
    own = Path(folders[0]).expanduser().resolve()
    if not folders[0] or not own.is_dir():
        raise UserError(f"--config-dir={folders[0]}: there is no such folder")
    for file in sorted(own.rglob("*.yaml")):
        if (folder / file.relative_to(own)).is_file():
            raise UserError(f"{file}: a shipped config has this name and would hide it; choose another one")
    return [*rest, f"hydra.searchpath=[{in_quotes(f'file://{own}')}]"]


def check_words(folder: Path, config_name: str, words: Sequence[str]) -> DictConfig | None:
    """Composes the config of the command line, so that a wrong name costs one line and no folder.

    A sweep override is checked value by value. Flags of Hydra itself (``--help``, ``--cfg`` …) are left to it.

    Args:
        folder: the folder of configs.
        config_name: the primary config.
        words: the command line after the script's name.

    Returns:
        The config with Hydra's own part (of a sweep that of its first job); None where a flag of Hydra is given.

    Raises:
        UserError: a word cannot be read, names what there is not, or gives a value of a wrong type; the message
            quotes it, and how to write it.
    """
    others = [word for word in words if is_flag(word) and word not in SWEEP]
    if others and SWEEP & set(words):
        raise UserError(f"{others[0]}: shows one run; leave {' and '.join(sorted(SWEEP & set(words)))} out")
    if others:
        return None
    if not SWEEP & set(words):
        for word in words:
            if word.startswith("sweep=") and word not in ("sweep=null", "sweep=~"):
                raise UserError(f"{word}: a sweep needs -m; write -m before it, or leave it out for one run")
    overrides = null_groups_removed(folder, config_name, [word for word in words if not is_flag(word)])
    parsed = [_parse(word) for word in overrides]
    for word, override in zip(overrides, parsed, strict=True):
        if override.is_sweep_override() and not SWEEP & set(words):
            raise UserError(
                f"{word}: several values are a sweep, which needs -m; if the comma belongs to the value, write "
                f"{quoted(word)}"
            )
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(folder.resolve())):
            choices = _combinations(overrides, parsed)
            jobs = [compose(config_name, choice, return_hydra_config=True) for choice in choices]
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        said = _short(str(error), folder, overrides)
        raise UserError(said + _meant(str(error), folder, config_name, overrides)) from error
    finally:
        GlobalHydra.instance().clear()
    for choice, job in zip(choices, jobs, strict=True):
        check_types(config_name, job, choice)
    return jobs[0]


def check_launcher(config: DictConfig) -> None:
    """Makes sure, before anything is made, that what starts the jobs of a sweep is there.

    Raises:
        UserError: it is SLURM, and there is none.
    """
    launcher = str(config.hydra.launcher.get("_target_"))
    if launcher.endswith(".SlurmLauncher") and shutil.which("srun") is None:
        raise UserError("launcher=slurm: there is no srun here; start the sweep where SLURM takes jobs")


def is_flag(word: str) -> bool:
    """Whether a word is an option of Hydra rather than a setting."""
    return word.startswith("-")


def _parse(word: str) -> Override:
    if word.startswith("="):
        raise UserError(f"{word}: the name of the setting is missing")
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word}: a setting is written key=value") from error
        try:
            OverridesParser.create().parse_override(shlex.split(quoted(word))[0])
        except HydraException:
            raise UserError(f"{word}: {key!r} is no name of a setting") from error
        if not value:
            raise UserError(f"{word}: the value is missing; write {key}=null for none") from error
        raise UserError(f"{word}: Hydra cannot read the value; write {quoted(word)}") from error


def _combinations(overrides: Sequence[str], parsed: Sequence[Override]) -> list[list[str]]:
    """Each value of each sweep once, with the first value of the others."""
    choices: list[list[str]] = []
    for text, override in zip(overrides, parsed, strict=True):
        if override.is_sweep_override():
            name = text.split("=", 1)[0]
            choices.append([f"{name}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([text])
    first = [options[0] for options in choices]
    combinations = [first]
    for position, options in enumerate(choices):
        combinations += [[*first[:position], option, *first[position + 1 :]] for option in options[1:]]
    return combinations


def _short(message: str, folder: Path, overrides: Sequence[str]) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = lines[0].rstrip(".") if lines else "the settings cannot be put together"
    group, _, choice = text.partition("Could not find '")[2].rstrip("'").rpartition("/")
    if group == "hydra/launcher" and choice in _LAUNCHERS:
        return missing(*_LAUNCHERS[choice])
    if group and (folder / group).is_dir():
        known = sorted(path.stem for path in (folder / group).glob("*.yaml") if not path.stem.startswith("_"))
        return f"{group}={choice}: there is no such {group}; there is {', '.join(known)}"
    named = next((word for word in overrides if word.split("=")[0].lstrip("+~") in message), "")
    return f"{text}{f' (in {named})' if named and named not in text else ''}"


def _meant(message: str, folder: Path, config_name: str, overrides: Sequence[str]) -> str:
    """The setting whose name is nearest to one that there is not; "" where none is near."""
    unknown = re.search(r"Could not override '([^']+)'", message)
    if unknown is None:
        return ""
    others = [word for word in overrides if word.split("=")[0].lstrip("+~") != unknown[1]]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(folder.resolve())):
            first = _combinations(others, [_parse(word) for word in others])[0]
            there = compose(config_name, first, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException):
        return ""  # another word is wrong too: first things first
    known = [name for name, _ in leaves(OmegaConf.to_container(there, resolve=False))]
    close = difflib.get_close_matches(unknown[1], known, n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else ""


def plain_settings(config: DictConfig) -> Mapping[str, Any]:
    """The settings of a config, without Hydra's own, interpolations resolved.

    Raises:
        UserError: a value is missing, or an interpolation leads nowhere.
    """
    try:
        without = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        settings = OmegaConf.to_container(without, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from error
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def make_exclusively(folder: Path) -> Path:
    """Makes a folder that is nobody else's: under this name, or with ``_2``, ``_3`` … behind it.

    Raises:
        UserError: it cannot be made.
    """
    for number in range(1, 10_000):
        mine = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            mine.parent.mkdir(parents=True, exist_ok=True)
            mine.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"{mine}: cannot make the run folder ({error.strerror}); give another with paths.log_dir=…"
            ) from error
        return mine
    raise UserError(f"{folder}: there are 10,000 folders of that name; give another with hydra.run.dir=…")


def remove_if_untouched(folder: Path) -> None:
    """Hydra makes the run folder before the job starts; one that holds nothing else is no result.

    Nor are the folders above it that are empty then, up to the working folder.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    if all(
        path.parent.name == ".hydra" or path.name == ".lock" or (path.suffix == ".log" and path.parent == folder)
        for path in files
    ):
        shutil.rmtree(folder, ignore_errors=True)
        here = Path.cwd()
        with suppress(OSError):  # one that holds something stays
            for above in folder.resolve().parents:
                if above == here or here not in above.parents:
                    break
                above.rmdir()


def is_child() -> bool:
    """Whether a launcher has started this process beside another one, which made the run folder."""
    return any(int(os.environ.get(name) or 0) > 0 for name in ("LOCAL_RANK", "SLURM_PROCID", "RANK"))


def arguments() -> list[str]:
    """The words of this process's command line."""
    return sys.argv[1:]
