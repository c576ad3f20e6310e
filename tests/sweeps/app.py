"""``train.py`` in this process, with jobs that train nothing."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from siglip_med.launch import entry


class Cut(BaseException):
    """Ends the process's sweep in the middle of a job, as SIGKILL does: nobody writes anything any more."""


class App:
    """Runs sweeps and keeps which jobs they did.

    Attributes:
        answer: what a job of these settings reaches; it may raise.
        done: name, seed and learning rate of every job that was begun, in order.
    """

    def __init__(self, monkeypatch: Any, folder: Path) -> None:
        self.monkeypatch, self.folder = monkeypatch, folder
        self.answer: Callable[[DictConfig], float] = lambda config: 0.5
        self.done: list[DictConfig] = []
        monkeypatch.setattr(entry, "_do", self._job)

    def _job(self, command: str, interruption: Any, folder: Path, config: DictConfig) -> float:
        self.done.append(config)
        value = self.answer(config)
        metrics = {"tuned/val/mrr": value, "tuned/test/r_at_1": value / 2}
        about = {"name": config.name, "seed": config.seed, "conditions": 66, "metrics": metrics}
        (folder / "metrics.json").write_text(json.dumps(about))
        (folder / "run.json").write_text("{}")
        return value

    def cut_at(self, job: int) -> None:
        """The jobs from that one on, counted from 1, end the process in their middle."""
        answer = self.answer

        def cut(config: DictConfig) -> float:
            if len(self.done) == job:
                raise Cut
            return answer(config)

        self.answer = cut

    def run(self, *words: str, folder: Path | None = None) -> int:
        """Runs a sweep; the exit status."""
        line = ["-m", f"hydra.sweep.dir={folder or self.folder}", "hydra/hydra_logging=none"]
        quiet = [] if any(word.startswith("hydra/job_logging") for word in words) else ["hydra/job_logging=none"]
        self.monkeypatch.setattr(sys, "argv", ["train.py", *line, *quiet, *words])
        try:
            entry.launch("train")
        except SystemExit as stopped:
            return int(stopped.code or 0)
        return 0
