"""Stops every command by each signal at many moments: ``python -m tests.launch.stopped`` (about a quarter of an hour).

The signal goes to the command's process, or to its whole process group as SLURM and a terminal send it. Each ends with
128 + the signal, with one line and no traceback, and leaves no folder that holds nothing.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tests.processes import REPOSITORY
from tests.short_runs import SMALL

MOMENTS = (0.4, 1.0, 2.5, 5.0, 7.0, 9.0)
"""Seconds after the start: while Hydra is imported, PyTorch, the model built, in the work itself."""
SENT = ("SIGTERM", "SIGINT", "SIGHUP")
TRAIN = [*SMALL, "experiment=baseline", "data.num_workers=2", "trainer.max_steps=4000", "refit=null"]


def commands(run: Path, place: Path) -> dict[str, list[str]]:
    """The words of each command; what they write goes below ``place``."""
    checkpoint = f"checkpoint={run}/checkpoints/best.ckpt"
    logs, away = f"paths.log_dir={place}/logs", f"hydra.run.dir={place}/logs"
    return {
        "train": [*TRAIN, logs],
        "sweep": ["-m", *TRAIN, "seed=0,1", logs],
        "features": [*TRAIN, "model/adaptation=frozen", "features=cached", "features.views=200", logs],
        "evaluate": [checkpoint, f"output={place}/report", logs],
        "predict": [checkpoint, f"images={run.parent}/cache/synthetic", f"output_dir={place}/predicted", away],
        "embed": [checkpoint, f"images={run.parent}/cache/synthetic", f"out={place}/rows.npz", "batch_size=1", away],
        "export": [checkpoint, "format=onnx", f"output={place}/export", away],
        "check": ["data.source.n_images=2000", f"output={place}/check", logs],
        "labels": [f"runs=[{run},{run}]", away],
        "demo": [checkpoint, "port=0", away],
    }


def start(
    command: str, words: list[str], cache: Path, screen: Path, before: Callable[[], None] | None = None
) -> "subprocess.Popen[bytes]":
    """Starts a command in a session of its own, after ``before`` in its process; what it prints goes to a file."""
    name = {"sweep": "train", "features": "train"}.get(command, command)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "SIGLIP_MED_CACHE": str(cache)}
    code = f"import siglip_med.launch; siglip_med.launch.{name}()"
    with screen.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-c", code, *words],
            cwd=REPOSITORY,
            env=environment | {"PYTHONPATH": str(REPOSITORY)},
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=before,
        )


def fault(process: "subprocess.Popen[bytes]", number: int, group: bool, screen: Path, place: Path) -> str:
    """Sends a signal; what is wrong with how the command ended, or nothing."""
    if process.poll() is not None:
        return "" if process.returncode == 0 else f"failed by itself: {screen.read_text()[-300:]}"
    (os.killpg if group else os.kill)(process.pid, number)
    try:
        status = process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return "still there after 60 s"
    printed = screen.read_text(errors="replace")
    time.sleep(0.3)
    left = _in_group(process.pid)
    if left:
        return f"processes are left: {left}"
    if status in (0, -number) and ("wrote" in printed or "report:" in printed or "page:" in printed):
        return ""  # it was at its end
    if status != 128 + number:
        return f"exit status {status}: {printed[-600:]}"
    if "Traceback" in printed or "Exception ignored" in printed:
        return f"a traceback: {printed[-1500:]}"
    if "stopped by" not in printed and "was stopped by" not in printed:
        return f"not said: {printed[-300:]}"
    empty = [path for path in place.rglob("*") if path.is_dir() and not any(item.is_file() for item in path.rglob("*"))]
    bare = [str(path) for path in empty if path.parent.name == "runs" or ".part" in path.name]
    return f"left behind: {bare}" if bare else ""


def _in_group(group: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(path.parent.name)
    return found


def trained(place: Path) -> Path:
    """A run of two steps for the other commands."""
    words = [*TRAIN, "trainer.max_steps=2", "data.num_workers=0", f"hydra.run.dir={place}/run"]
    assert start("train", words, place / "cache", place / "run.log").wait() == 0, (place / "run.log").read_text()
    return place / "run"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="of the commands")
    parser.add_argument("--moments", nargs="*", type=float, default=MOMENTS, help="seconds after the start")
    options, console = parser.parse_args(), Console()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run = trained(root)
        for number, name in enumerate(commands(run, root)):
            if options.only and name not in options.only:
                continue
            for position, moment in enumerate(options.moments):
                sent = SENT[(number + position) % 3]
                group = (number + position) % 2 == 0
                place, screen = root / f"{name}{position}", root / f"{name}{position}.log"
                place.mkdir()
                process = start(name, commands(run, place)[name], root / "cache", screen)
                time.sleep(moment)
                wrong = fault(process, getattr(signal, sent), group, screen, place)
                faults += bool(wrong)
                who = "group" if group else "process"
                line = f"{name}, {sent} to its {who} after {moment:.1f} s: {wrong or 'clean'}"
                console.print(line, soft_wrap=True, highlight=False, markup=False)
    raise SystemExit(faults > 0)


if __name__ == "__main__":
    main()
