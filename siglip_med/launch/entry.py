"""How a command starts: its command line is checked, Hydra composes its config, its ``run`` gets typed settings."""

import importlib
import logging
import os
import shlex
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from siglip_med.core.config import TARGET, config_dir, instantiate, typed, validate_config
from siglip_med.core.errors import UserError, fail, of_the_machine, one_line
from siglip_med.core.outside import printable, printable_record, say
from siglip_med.core.shell import null_groups_removed, other_command, setting
from siglip_med.core.signals import Interruption, Stopped
from siglip_med.launch.command_line import (
    SWEEP,
    arguments,
    check_launcher,
    check_words,
    is_child,
    is_flag,
    make_exclusively,
    own_configs_first,
    plain_settings,
    remove_if_untouched,
)
from siglip_med.launch.help import help_text, version_line, wants_help
from siglip_med.launch.jobs import run_once
from siglip_med.launch.ranks import Ranks, joined

RUNS = frozenset({"train"})
"""Commands that can resume a run."""
QUICK_TABLE = 2_000_000
"""Bytes of a table that is read in no time."""


def launch(command: str, interruption: Interruption | None = None) -> None:
    """Runs a command; see `siglip_med.launch.launch`, which catches signals from its first moment."""
    folder = config_dir()
    if "--version" in arguments():
        print(version_line())
        return
    if wants_help(arguments()):
        print(help_text(folder, command), end="")
        return
    silent: AbstractContextManager[Any] = nullcontext()
    if command in RUNS and is_child():  # the first process tells the run's story; errors are on standard error
        silent = redirect_stdout(Path(os.devnull).open("w"))  # noqa: SIM115 - logging may write to it until the end
    try:
        with silent, joined() if command in RUNS else nullcontext(Ranks()) as ranks:
            words = own_configs_first(folder, arguments())
            config = check_words(folder, command, words)
            if config is not None and SWEEP & set(words):
                check_launcher(config)
            if config is not None and command in (*RUNS, "check"):
                _look_at_table(command, config)
            words = null_groups_removed(folder, command, words)
            if ranks.size > 1 and SWEEP & set(words):
                raise UserError("-m: each job of a sweep is one process; start it without torchrun or srun")
            told = ranks.told("words", lambda: run_folder_words(command, words, config))
            if ranks.rank:
                told = [*told, "hydra.output_subdir=null"]  # the first process writes it
            sys.argv[1:] = [*words, *told]
            interruption = interruption or Interruption()
            interruption.leave = interruption.leave and partial(_leave, told, ranks)
            job = partial(_job, command, interruption)
            os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints tracebacks of its own files itself
            hydra.main(version_base="1.3", config_path=str(folder), config_name=command)(job)()
    except Exception as error:
        fail(_line(error))


def _line(error: Exception) -> UserError:
    """What to print in place of a traceback; a bug is raised again."""
    line = error if isinstance(error, UserError) else of_the_machine(error)
    if line is None and isinstance(error, CompactHydraException):
        line = of_the_machine(error.__cause__ or error) or UserError(one_line(error))
    if line is None:
        raise error
    return line


def run_folder_words(command: str, words: Sequence[str], config: DictConfig | None) -> list[str]:
    """What to add to a command line so that its run has a folder of its own, or resumes in the one it has.

    Args:
        command: see `launch`.
        words: the command line.
        config: what it composes, from `check_words`.

    Raises:
        UserError: the run to resume is not there, or the folder holds another one.
    """
    if config is None or command == "tune" or is_child() or any(is_flag(word) for word in words):
        return []  # processes share a study; a sweep gives each job a folder, and a flag of Hydra's own starts no run
    wanted = Path(OmegaConf.to_container(config.hydra.run, resolve=True)["dir"])  # type: ignore[index,call-overload]
    named = any(word.startswith("hydra.run.dir=") for word in words)
    resume = []
    if command in RUNS and config.resume is not None:
        found = _run_to_resume(config, wanted, named)
        if found is not None:
            return [_override(k, found) for k in ("hydra.run.dir", "resume")] + ["hydra.output_subdir=null"]
        resume = ["resume=null"]
    return [*([] if named else [_override("hydra.run.dir", make_exclusively(wanted))]), *resume]


def _run_to_resume(config: DictConfig, wanted: Path, named: bool) -> Path | None:
    from siglip_med.runs.resume import find_auto, find_run

    if config.resume == "auto":
        config.paths.output_dir = str(wanted)
        point, why = find_auto(plain_settings(config), wanted, neighbors=not named)
        print(f"resume=auto: {printable(why)}", file=sys.stderr)
        return None if point is None else point.folder
    point = find_run(str(config.resume))
    if named and wanted.resolve() != point.folder:
        raise UserError(f"hydra.run.dir={wanted}: a run is resumed in its own folder, {point.folder}; leave it out")
    print(f"resume: {printable(point.said)}", file=sys.stderr)
    return point.folder


def _override(key: str, value: Path) -> str:
    return shlex.split(setting(key, value))[0]


def _leave(words: Sequence[str], ranks: Ranks, stopped: Stopped) -> None:
    """What is left to do when a command is stopped before its job: the folder that was made for it goes."""
    for word in words:
        if word.startswith("hydra.run.dir="):
            remove_if_untouched(Path(str(OverridesParser.create().parse_override(word).value())))
    stopped.say()
    if ranks.store is not None:
        ranks.close(stopped.exit_status)


def _job(command: str, interruption: Interruption, config: DictConfig) -> Any:
    """One Hydra job; what it returns is what a sweep optimizes.

    A `UserError` becomes one line and exit status 2, and the empty run folder is removed. A run that was stopped exits
    with 128 + the signal.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        if command in RUNS and HydraConfig.get().mode == RunMode.MULTIRUN:
            return run_once(config, partial(_do, command, interruption, folder))
        return _do(command, interruption, folder, config)
    except Exception as error:
        line = _line(error)
        logging.getLogger(__name__).debug("hydra.verbose=true shows where", exc_info=error)
        remove_if_untouched(folder)
        fail(line)
    except Stopped as stopped:
        remove_if_untouched(folder)
        print(printable(_farewell(command, stopped, folder)), file=sys.stderr)
        raise SystemExit(stopped.exit_status) from None


def _do(command: str, interruption: Interruption, folder: Path, config: DictConfig) -> Any:
    threading.excepthook = _of_a_thread
    module = importlib.import_module(f"siglip_med.commands.{command}")  # only now: it takes seconds
    _quiet_libraries()
    for handler in logging.getLogger().handlers:
        handler.addFilter(printable_record)
    interruption.leave = None  # from here on a signal leaves time to clear up
    if command in RUNS:
        config = _with_own_settings(command, config, folder)
    return module.show(module.run(typed(config, module.Settings)))


def _look_at_table(command: str, config: DictConfig) -> None:
    """Reads a small table of one's own before seconds of imports: what is wrong with it is said at once.

    Raises:
        UserError: as the run itself, which reads it again; as ``check``, which says more of a table that is there.
    """
    source = OmegaConf.select(config, "data.source")
    if (
        source is None
        or source.get(TARGET) != "siglip_med.sources.CsvSource"
        or config.get("resume") not in (None, "auto")
    ):
        return  # a run that is resumed has its own
    plain = OmegaConf.create({"data": {"source": OmegaConf.to_container(source, resolve=True)}})
    validate_config(plain)
    found = instantiate({**plain.data.source, "near_duplicate_distance": None})  # opens no image
    try:
        table = found.folder() / found.table
        if not table.is_file() or (command in RUNS and table.stat().st_size < QUICK_TABLE):
            found.load()
    except UserError as error:
        error.exit_status = 2 if command in RUNS else 1
        raise


def _of_a_thread(what: threading.ExceptHookArgs) -> None:
    """A thread of a library (TensorBoard's writer) that meets a full disk says so in a line, as the command does."""
    line = None if what.exc_value is None else of_the_machine(what.exc_value)
    if line is None:
        threading.__excepthook__(what)
    else:
        say(f"error: {line}")


def _with_own_settings(command: str, config: DictConfig, folder: Path) -> DictConfig:
    """The settings of the run that is resumed, where there is one.

    The config of an empty command line is composed too: what differs from it was given on this one.
    """
    if config.get("resume") is None:
        return config
    from siglip_med.runs.resume import find_run, find_same, own_settings

    words = list(HydraConfig.get().overrides.task)
    now = plain_settings(config)
    alone = HydraConfig.get().mode == RunMode.RUN
    point = find_same(now, folder, neighbors=False) if now["resume"] == "auto" else find_run(str(now["resume"]))
    if point is None:
        return config
    if not alone and point.folder.resolve() != folder.resolve():
        raise UserError("resume: in a sweep each job resumes in its own folder; use resume=auto with hydra.sweep.dir=…")
    default = hydra.compose(command, overrides=[_override("paths.output_dir", folder)])
    config = OmegaConf.create(own_settings(point, now, plain_settings(default), words))
    assert isinstance(config, DictConfig)
    return config


def _farewell(command: str, stopped: Stopped, folder: Path) -> str:
    name = stopped.name
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        place = setting("hydra.sweep.dir", str(HydraConfig.get().sweep.dir))
        return f"the sweep was stopped by {name}; to resume it: the same command with {place}"
    if command == "tune":
        return f"the study was stopped by {name}; to resume it: the same command"
    if command not in RUNS:
        return stopped.line
    if stopped.folder is None and not (folder / "checkpoints").is_dir():
        return f"stopped by {name} before the first checkpoint: start it again"
    where = "" if stopped.step is None else f" at step {stopped.step}"
    again = f"{other_command(command)} {setting('resume', stopped.folder or folder)}"
    return f"stopped by {name}{where}; to resume: {again}"


def _quiet_libraries() -> None:
    """Leaves the screen to the run's own progress and table; warnings of Lightning stay.

    After the command's imports: Lightning sets its own logger's level when it is imported, and a prediction needs none.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for chatty in ("lightning.pytorch", "httpx", "huggingface_hub", "onnx_ir", "torch.onnx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)  # which constants it could not fold
    for known in (
        ".*LeafSpec.*",
        ".*is_gradient_checkpointing.*",
        "Found .* module.* in eval mode.*",
        ".*your dataloader is not resumable.*",  # it is: its order is a function of seed, epoch and position
        ".*recommended to use `self.log.*sync_dist=True.*",  # what is logged is of the global batch, on every rank
        ".*overridden `on_before_batch_transfer` in `LightningModule`.*",  # it counts, and changes no batch
    ):
        warnings.filterwarnings("ignore", message=known)  # deprecations between libraries; a frozen tower stays in eval
