"""Kills sweeps half-way with SIGKILL, gives them again, and compares their tables with those of unbroken ones.

``python -m tests.sweeps.chaos`` kills a grid of 12 training jobs, one on two processes, and a ``siglip-med-tune``.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from siglip_med.sweeps import read_records
from siglip_med.training.pruning import open_storage
from tests.short_runs import SMALL

ROOT = Path(__file__).resolve().parents[2]
CHEAP = [
    *SMALL,
    "features=cached",
    "model/adaptation=frozen",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.check_val_every_n_epoch=null",
    "logger=null",
    "callbacks.learning_rate=null",
    "callbacks.run_log=null",
    "evaluation.bootstrap=2",
    "hydra.callbacks.leaderboard.bootstrap=20",
]
"""Real training jobs of about two seconds."""
TABLES = ("leaderboard.csv", "leaderboard.json", "tune.csv")


def grid(seeds: int, experiments: Sequence[str]) -> list[str]:
    """The words of a grid."""
    return [*CHEAP, f"seed={','.join(map(str, range(seeds)))}", f"experiment={','.join(experiments)}"]


def tuning(trials: int, experiments: Sequence[str]) -> list[str]:
    """The words of ``siglip-med-tune``."""
    return [
        f"experiments=[{','.join(experiments)}]",
        f"overrides={json.dumps([word for word in CHEAP if not word.startswith('hydra.')])}",
        f"trials={trials}",
        "sampler=tpe",
        "startup=2",
        "pruning.startup=1",
        "~space.dropout",
        "space.steps.choices=[4,6]",
    ]


def start(words: Sequence[str], folder: Path) -> "subprocess.Popen[bytes]":
    """Starts a sweep, or a study that tunes, in a session of its own, its screen in ``<folder>.log``."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["SIGLIP_MED_CACHE"] = f"{folder.parent}/cache"
    tunes = any(word.startswith("experiments=") for word in words)
    command = ["-c", "from siglip_med.launch import tune; tune()"] if tunes else ["train.py", "-m"]
    place = f"folder={folder}" if tunes else f"hydra.sweep.dir={folder}"
    with folder.with_suffix(".log").open("ab") as screen:
        return subprocess.Popen(
            [sys.executable, *command, *words, place],
            cwd=ROOT,
            env=environment,
            stdout=screen,
            stderr=screen,
            start_new_session=True,
        )


def states(folder: Path) -> dict[str, str]:
    """Run folder of each job or trial -> how it stands."""
    if not (folder / "tune.journal").is_file():
        return {record.folder: record.state for record in read_records(folder)}
    names = {"COMPLETE": "finished", "PRUNED": "pruned", "RUNNING": "running", "FAIL": "failed"}
    storage = open_storage(folder / "tune.journal")
    return {
        f"{study.study_name}/{trial.user_attrs['slot']:03d}": names[trial.state.name]
        for study in storage.get_all_studies()
        for trial in storage.get_all_trials(study._study_id, deepcopy=False)
        if "slot" in trial.user_attrs
    }


def kill_in_job(process: "subprocess.Popen[bytes]", folder: Path, done: int) -> int:
    """Kills a sweep when so many of its jobs are over and another one trains.

    Returns:
        How many were over.

    Raises:
        AssertionError: the sweep was over before.
    """
    while process.poll() is None:
        found = states(folder)
        over = sum(state in ("finished", "pruned") for state in found.values())
        trains = any(s == "running" and (folder / name / "run.json").is_file() for name, s in found.items())
        if over >= done and trains:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return over
        time.sleep(0.05)
    raise AssertionError(f"the sweep was over before it was killed: {folder.with_suffix('.log').read_text()[-3000:]}")


def tables(folder: Path) -> dict[str, str]:
    """What a sweep ended with, as written, but for the name of its folder."""
    found = {name: (folder / name).read_text() for name in TABLES if (folder / name).is_file()}
    return {
        name: text.replace(str(folder), "FOLDER").replace(f'"{folder.name}"', '"FOLDER"')
        for name, text in found.items()
    }


def broken_and_whole(words: Sequence[str], place: Path, jobs: int) -> int:
    """Runs a sweep as it is, and once more with a kill half-way, and compares what they ended with.

    Returns:
        How many jobs were over when it was killed.

    Raises:
        AssertionError: a table differs, or a job that was over was done again.
    """
    whole, broken = place / "whole", place / "broken"
    process = start(words, whole)
    assert process.wait() == 0, whole.with_suffix(".log").read_text()[-3000:]
    over = kill_in_job(start(words, broken), broken, jobs // 2)
    kept = {
        name: (broken / name / "run.json").stat().st_mtime_ns
        for name, state in states(broken).items()
        if state == "finished"
    }
    process = start(words, broken)
    assert process.wait() == 0, broken.with_suffix(".log").read_text()[-3000:]
    again = [name for name, time_ in kept.items() if (broken / name / "run.json").stat().st_mtime_ns != time_]
    assert not again, f"done again: {again}"
    assert len(states(broken)) == len(states(whole)) == jobs
    first, second = tables(whole), tables(broken)
    assert first, "no table was written"
    for name in first:
        assert first[name] == second[name], f"{name} differs: see {place}"
    return over


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("grid", "parallel", "tune"), help="one of the three")
    only = parser.parse_args().only
    losses = ["baseline", "softmax", "infonce"]
    cases = {
        "grid": (grid(4, losses), 12),
        "parallel": ([*grid(2, losses), "launcher=parallel"], 6),
        "tune": (tuning(4, losses[:2]), 8),
    }
    for name, (words, jobs) in cases.items():
        if only in (None, name):
            with tempfile.TemporaryDirectory() as place:
                over = broken_and_whole(words, Path(place), jobs)
            Console().print(
                f"{name}: killed with {over} of {jobs} jobs over; given again, it ended with the unbroken table"
            )


if __name__ == "__main__":
    main()
