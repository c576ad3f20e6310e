"""How a command starts: its command line is checked, Hydra composes its config, its ``run`` gets typed settings."""

import importlib
import logging
import shutil
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from siglip_med.config import config_dir, typed
from siglip_med.errors import UserError, fail
from siglip_med.extras import missing

_LAUNCHERS = {
    "joblib": ("hydra-joblib-launcher", "launcher=parallel", "parallel"),
    "submitit_slurm": ("hydra-submitit-launcher", "launcher=slurm", "slurm"),
}
"""Hydra's launcher -> package, feature and extra."""


def launch(command: str) -> None:
    """Runs a command as typed: the body of ``train.py`` and of the installed ``siglip-med-train``, for every command.

    Args:
        command: the name of a module of `siglip_med.commands`, which has ``Settings``, ``run`` and ``show``, and of its
            config in ``conf/``.
    """
    folder = config_dir()
    check_command_line(folder, command)
    hydra.main(version_base="1.3", config_path=str(folder), config_name=command)(partial(_job, command))()


train, pretrain, evaluate, predict, export = (
    partial(launch, name) for name in ("train", "pretrain", "evaluate", "predict", "export")
)
"""Entry points of the console scripts."""


def _job(command: str, config: DictConfig) -> Any:
    """One Hydra job; what it returns is what a sweep optimizes.

    A `UserError` becomes one line and exit status 2, and the empty run folder goes.
    """
    _quiet_libraries()
    try:
        module = importlib.import_module(f"siglip_med.commands.{command}")  # only now: it takes seconds
        return module.show(module.run(typed(config, module.Settings)))
    except UserError as error:
        _remove_if_untouched(Path(HydraConfig.get().runtime.output_dir))
        fail(error)


def check_command_line(folder: Path, config_name: str, arguments: Sequence[str] | None = None) -> None:
    """Composes the config that the command line asks for, so that a wrong name costs one line and no folder.

    A sweep override is checked value by value. Flags of Hydra itself (``--help``, ``--cfg`` …) are left to it.

    Args:
        folder: the folder of configs.
        config_name: the primary config.
        arguments: the command line after the script's name; the process's own by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    flags = [word for word in words if word.startswith("-") and word not in {"-m", "--multirun"}]
    if flags:
        return
    overrides = [word for word in words if not word.startswith("-")]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(folder.resolve())):
            for combination in _combinations(overrides):
                compose(config_name, overrides=combination, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        fail(UserError(_short(str(error), folder, overrides)))
    finally:
        GlobalHydra.instance().clear()


def _combinations(overrides: list[str]) -> list[list[str]]:
    """Each value of each sweep once, with the first value of the others."""
    parsed = OverridesParser.create().parse_overrides(overrides)
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


def _short(message: str, folder: Path, overrides: list[str]) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = lines[0]
    group, _, choice = text.partition("Could not find '")[2].rstrip("'").rpartition("/")
    if group == "hydra/launcher" and choice in _LAUNCHERS:
        return missing(*_LAUNCHERS[choice])
    if group and (folder / group).is_dir():
        known = sorted(path.stem for path in (folder / group).glob("*.yaml") if not path.stem.startswith("_"))
        return f"{group}={choice}: there is no such {group}; there is {', '.join(known)}"
    named = next((word for word in overrides if word.split("=")[0].lstrip("+~") in message), "")
    return f"{text}{f' (in {named})' if named and named not in text else ''}"


def _quiet_libraries() -> None:
    """Leaves the screen to the run's own progress and table; warnings of Lightning stay."""
    import lightning.pytorch  # noqa: F401  sets its own logger's level when it is imported
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for chatty in ("lightning.pytorch", "httpx", "huggingface_hub"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for known in (".*LeafSpec.*", ".*is_gradient_checkpointing.*", "Found .* module.* in eval mode.*"):
        warnings.filterwarnings("ignore", message=known)  # deprecations between libraries; a frozen tower stays in eval


def _remove_if_untouched(folder: Path) -> None:
    """Hydra makes the run folder before the job starts; one that holds nothing else is no result."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if all(path.parent.name == ".hydra" or (path.suffix == ".log" and path.parent == folder) for path in files):
        shutil.rmtree(folder, ignore_errors=True)
