"""What a sweep prints at its start and its end, and its exit status."""

import time
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from siglip_med.core.outside import say
from siglip_med.core.shell import setting
from siglip_med.sweeps.records import differing, read_records

FAILED_STATUS = 1
"""Exit status of a sweep in which a job failed."""


class SweepStatus(Callback):
    """Hydra callback: prints how to resume an interrupted sweep, and which of its jobs failed.

    It precedes the other callbacks in the config, so that it comes last at the end: it ends the process with
    `FAILED_STATUS` where a job of this command failed.
    """

    def __init__(self) -> None:
        self.started = 0.0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints how to resume the sweep."""
        self.started = time.time()
        folder = setting("hydra.sweep.dir", _dir(config))
        say(f"to resume this sweep if it is interrupted: the same command with {folder}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Lists the jobs that failed.

        Raises:
            SystemExit: there are such jobs, of this command.
        """
        sweep = _dir(config)
        records = read_records(sweep)
        failed = [record for record in records if record.state == "failed" and record.time >= self.started]
        if not failed:
            return
        say(f"{len(failed)} of {len(records)} jobs failed; the same command with the same folder does them again:")
        overrides = dict(
            zip((record.key for record in records), differing([r.overrides for r in records]), strict=True)
        )
        for record in failed:
            say(f"  {' '.join(overrides[record.key])}\n    {record.reason}\n    log: {sweep / record.log}")
        raise SystemExit(FAILED_STATUS)


def _dir(config: DictConfig) -> Path:
    return Path(str(config.hydra.sweep.dir))
