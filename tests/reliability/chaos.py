"""Kills runs at random moments, resumes them, and compares them with a run that nothing stopped: ``make chaos``.

Each run is a process of its own that does what ``python train.py … resume=auto`` does; only the imports are shared, by
forking. Half of the runs have ``$TMPDIR`` on another file system, half have two data workers.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import track

from siglip_med.commands import train
from siglip_med.core.config import config_dir, typed
from siglip_med.core.signals import Stopped
from siglip_med.launch.command_line import check_words, plain_settings
from siglip_med.launch.entry import _quiet_libraries, run_folder_words
from siglip_med.runs.resume import find_same, own_settings
from tests.runs.test_resume import assert_same_run

WORDS = [
    "experiment=published",
    "data.source.n_images=260",
    "data.batch_size=32",
    "data/sampling=natural",
    "trainer.max_steps=12",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "callbacks=early_stopping",
    "callbacks.early_stopping.patience=50",
    "callbacks.checkpoint.every_n_steps=1",
    "callbacks.progress=null",
    "evaluation.bootstrap=20",
    "resume=auto",
]


def command(words: list[str]) -> None:
    """What ``train.py`` does with these words, but for Hydra's own logging."""
    folder = config_dir()
    chosen = run_folder_words("train", words, check_words(folder, "train", words))
    output = Path(chosen[0].partition("=")[2].strip('"'))
    with initialize_config_dir(version_base="1.3", config_dir=str(folder)):
        place = f"paths.output_dir={output}"
        now = plain_settings(compose("train", overrides=[*words, place]))
        default = plain_settings(compose("train", overrides=[place]))
    GlobalHydra.instance().clear()
    point = find_same(now, output, neighbors=False)
    config = OmegaConf.create(now if point is None else own_settings(point, now, default, words))
    train.run(typed(config, train.Settings))


def start(words: list[str], temporary: Path | None = None) -> int:
    """A process that runs the command; its output goes nowhere, its exit status is the command's."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        if temporary is not None:
            os.environ["TMPDIR"], tempfile.tempdir = str(temporary), str(temporary)
        _quiet_libraries()
        warnings.simplefilter("ignore")
        command(words)
        status = 0
    except Stopped as stopped:
        status = stopped.exit_status
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def finish(child: int) -> int:
    """Exit status of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def places(logs: Path, cache: Path) -> list[str]:
    """The words that say where a run writes."""
    return [f"paths.log_dir={logs}", f"paths.cache_dir={cache}"]


def run_of(logs: Path) -> Path:
    """The one run below a folder of logs that is finished."""
    found = [path.parent for path in logs.rglob("metrics.json")]
    assert len(found) == 1, f"{logs} holds {len(found)} finished runs"
    return found[0]


def main() -> None:
    """Prints how many runs came out as the unbroken one, by signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kill", type=int, default=25, help="runs ended by SIGKILL")
    parser.add_argument("--terminate", type=int, default=5, help="runs ended by SIGTERM")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--other", type=Path, default=Path("/dev/shm"), help="a folder of another file system")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chance, console = random.Random(options.seed), Console()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir=options.other) as other:
        root, cache = Path(folder), Path(folder) / "cache"
        assert Path(folder).stat().st_dev != Path(other).stat().st_dev, "--other is on the same file system"
        assert finish(start([*WORDS, *places(root / "warm", cache)])) == 0, "the unbroken run fails"
        began = time.monotonic()
        assert finish(start([*WORDS, *places(root / "whole", cache)])) == 0
        length, whole = time.monotonic() - began, run_of(root / "whole")
        plan = [signal.SIGKILL] * options.kill + [signal.SIGTERM] * options.terminate
        same: dict[str, int] = {}
        early = 0
        for number, how in enumerate(track(plan, console=console, description="killing runs")):
            workers = [f"data.num_workers={2 * (number % 2)}"]
            temporary = Path(other) if number // 2 % 2 else None
            logs = root / f"run{number}"
            words = [*WORDS, *places(logs, cache), *workers]
            child = start(words, temporary)
            time.sleep(chance.uniform(0, length))
            try:
                # a scheduler's SIGTERM goes to the process, a lost machine takes its workers too
                os.kill(child, how) if how == signal.SIGTERM else os.killpg(child, how)
            except ProcessLookupError:
                early += 1
            ended = finish(child)
            if how == signal.SIGTERM and ended not in (0, 128 + signal.SIGTERM):
                raise SystemExit(f"run {number} ended with {ended} after SIGTERM")
            status = finish(start(words, temporary))
            if status != 0:
                raise SystemExit(f"run {number} cannot be resumed: exit status {status}")
            assert_same_run(run_of(logs), whole)
            same[how.name] = same.get(how.name, 0) + 1
        for name, count in same.items():
            console.print(f"{name}: {count} of {count} runs ended as the unbroken one, bit for bit")
        console.print(f"an unbroken run took {length:.1f} s; {early} had ended before their signal")


if __name__ == "__main__":
    main()
