"""Trains for a while with everything on, and watches memory and open handles: ``make soak``.

One process trains the embedded default on a small set of drawings, with two data workers, a validation every other step
and a checkpoint after each. Memory is that of the process and its workers (pages that they share count once), read
every few seconds. Its growth is the slope of a straight line through the last third.
"""

import argparse
import os
import signal
import tempfile
import time
import warnings
from pathlib import Path
from threading import Event, Thread

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console

from siglip_med.commands import train
from siglip_med.core.config import config_dir, typed
from siglip_med.core.signals import Stopped
from siglip_med.launch.entry import _quiet_libraries
from siglip_med.models import read_checkpoint

WORDS = [
    "experiment=layered",
    "data.source.n_images=260",
    "data.batch_size=32",
    "data.num_workers=2",
    "trainer.max_steps=1000000",
    "trainer.val_check_interval=2",
    "callbacks=early_stopping",
    "callbacks.early_stopping.patience=1000000",
    "callbacks.checkpoint.every_n_steps=5",
    "evaluation.bootstrap=20",
]


def family(process: int) -> list[int]:
    """A process and those that it started."""
    found = [process]
    for tasks in Path(f"/proc/{process}/task").glob("*/children"):
        for child in tasks.read_text().split():
            found += family(int(child))
    return found


def resident(process: int) -> float:
    """Memory of a process, in MB; what it shares with others counts in part (PSS)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def watch(minutes: float, seconds: float, stop: Event) -> list[tuple[float, float, int]]:
    """Minutes since the start, memory in MB and open handles, until the time is over; the run is then told to stop."""
    began, seen = time.monotonic(), []
    while not stop.wait(seconds):
        passed = (time.monotonic() - began) / 60
        if passed > minutes:
            os.kill(os.getpid(), signal.SIGUSR1)
            break
        try:
            processes = family(os.getpid())
            memory = sum(map(resident, processes))
            handles = sum(len(os.listdir(f"/proc/{one}/fd")) for one in processes)  # noqa: PTH208
        except (FileNotFoundError, ProcessLookupError):
            continue  # a worker ended while it was looked at
        seen.append((passed, memory, handles))
    return seen


def main() -> None:
    """Prints how memory and handles went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    _quiet_libraries()
    warnings.simplefilter("ignore")
    console, seen, stop = Console(), [], Event()
    with tempfile.TemporaryDirectory() as folder:
        words = [f"paths.output_dir={folder}/run", f"paths.cache_dir={folder}/cache"]
        with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
            settings = typed(compose("train", overrides=[*WORDS, *words]), train.Settings)
        GlobalHydra.instance().clear()
        watcher = Thread(target=lambda: seen.extend(watch(options.minutes, 5.0, stop)))
        watcher.start()
        try:
            train.run(settings)
        except Stopped:
            steps = read_checkpoint(Path(folder) / "run" / "checkpoints" / "last.ckpt")["global_step"]
        finally:
            stop.set()
            watcher.join()
    values = np.array(seen)
    last = values[len(values) * 2 // 3 :]
    growth = np.polyfit(last[:, 0], last[:, 1], 1)[0]
    console.print(f"{steps:,} steps in {options.minutes:g} minutes, {steps // 2:,} validations")
    console.print(f"memory {values[0, 1]:,.0f} MB at first, {last[:, 1].mean():,.0f} MB in the last third")
    console.print(f"growth in the last third {growth:+.2f} MB a minute")
    console.print(f"handles {last[0, 2]:.0f} to {last[-1, 2]:.0f} in the last third, at most {values[:, 2].max():.0f}")


if __name__ == "__main__":
    main()
