"""A job of a sweep: done once, in a folder of its own, and its end written down, whatever it was.

Every launcher of Hydra (one after the other, joblib, SLURM) calls the same function for a job, and
this is it: a finished job is not done again, an interrupted one is resumed from its checkpoint, and one that fails
leaves the others alone.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from siglip_med.core.errors import UserError, of_the_machine
from siglip_med.core.outside import say
from siglip_med.launch.command_line import is_child, plain_settings, remove_if_untouched
from siglip_med.sweeps import JobRecord, read_record, write_record

log = logging.getLogger(__name__)


def digest(text: str) -> str:
    """Sixteen hexadecimal digits: the hash of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def job_key(settings: Mapping[str, Any]) -> str:
    """What a job is known by: a hash of all settings that decide its result.

    Args:
        settings: plain values.
    """
    from siglip_med.runs.resume import deciding

    return digest(json.dumps(deciding(settings), sort_keys=True, default=str))


def run_once(config: DictConfig, body: Callable[[DictConfig], Any]) -> Any:
    """Does a job unless it is done.

    Args:
        config: of the job.
        body: does it; what it returns is what a sweep optimizes.

    Returns:
        What ``body`` returned, now or when the job was done; None for a job that failed.

    Raises:
        Stopped: the process got a signal to stop; the job stays marked as interrupted.
    """
    from siglip_med.core.signals import Stopped

    hydra = HydraConfig.get()
    folder, words = Path(hydra.runtime.output_dir), tuple(hydra.overrides.task)
    sweep = Path(hydra.sweep.dir).resolve()
    place = folder.resolve().relative_to(sweep).as_posix()
    try:
        key = job_key(plain_settings(config))
    except UserError:  # a setting has no value: the job itself names it
        key = digest(" ".join(words))
    record = read_record(sweep, key)
    if record is not None and _is_done(sweep, record):
        say(f"done before: {record.folder}")
        if record.folder != place:
            remove_if_untouched(folder)
        return record.objective
    now = JobRecord(key, "running", place, words, time=time.time())
    _write(sweep, now)
    try:
        value = body(_resumed(config, folder))
    except Stopped:
        raise
    except Exception as error:
        line = error if isinstance(error, UserError) else of_the_machine(error)
        if line is not None:
            log.error("error: %s", line)
            return _failed(sweep, now, str(line))
        log.exception("the job failed")  # a bug, or a library's: it belongs to this job alone
        return _failed(sweep, now, f"{type(error).__name__}: {error}")
    _write(sweep, replace(now, state="finished", objective=value, time=time.time()))
    return value


def _failed(sweep: Path, record: JobRecord, reason: str) -> None:
    reason = " ".join(reason.split())
    say(f"failed: {record.folder}: {reason}")
    _write(sweep, replace(record, state="failed", reason=reason, log=_log(record.folder), time=time.time()))


def _is_done(sweep: Path, record: JobRecord) -> bool:
    """Finished, and its folder is still there."""
    return record.state == "finished" and (sweep / record.folder / "run.json").is_file()


def _resumed(config: DictConfig, folder: Path) -> DictConfig:
    """With ``resume=auto`` where the job was interrupted."""
    if config.get("resume") is not None or not (folder / "run.json").is_file():
        return config
    with open_dict(config):
        config.resume = "auto"
    return config


def _write(sweep: Path, record: JobRecord) -> None:
    if not is_child():  # of a job with several processes the first writes
        write_record(sweep, record)


def _log(place: str) -> str:
    return f"{place}/{HydraConfig.get().job.name}.log"


# In configs ``${digest:text}``: a job's folder is named after its overrides and not after its place in the sweep, so
# that a sweep with one more value finds the jobs it had. At import: a launcher's process reads it before a job starts.
OmegaConf.register_new_resolver("digest", lambda text: digest(str(text))[:8], replace=True)
