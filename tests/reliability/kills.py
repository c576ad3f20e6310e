"""Kills a command at its n-th change of the disk, gives it again, and compares the end.

``python -m tests.reliability.kills`` takes every n (hours), ``--every 20`` some. A change is a file that is opened to
be written, made, renamed, linked or removed, or a folder that is made or removed, as Python's audit events report them
before they happen; what libraries in C++ and Rust write is not among them. After the kill the same command ends as the
unbroken one, and leaves the same files.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console

from siglip_med.commands import evaluate, export, train
from siglip_med.core.config import typed
from siglip_med.launch.entry import _quiet_libraries
from siglip_med.sweeps import JobRecord, read_record, write_record
from siglip_med.training.checkpointing import PREVIOUS
from tests.runs.test_resume import assert_same_run
from tests.short_runs import compose_config, small_settings

EVENTS = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.symlink"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
WORDS = [
    "experiment=baseline",
    "data.batch_size=32",
    "trainer.max_steps=2",
    "trainer.val_check_interval=1",
    "trainer.log_every_n_steps=1",
    "callbacks.checkpoint.every_n_steps=1",
    "evaluation.bootstrap=5",
    "evaluation.probe_images=0",
    "refit=null",
]


class Changes:
    """Counts changes below a folder, and ends the process before one of them.

    Attributes:
        seen: how many there were.
    """

    def __init__(self, place: Path, kill_at: int | None) -> None:
        self.place, self.kill_at, self.seen = str(place), kill_at, 0
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" and event not in EVENTS:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
            return
        if not str(arguments[0]).startswith(self.place):
            return
        self.seen += 1
        if self.seen == self.kill_at:
            os._exit(137)


def in_a_process(place: Path, body: Callable[[Path], None], kill_at: int | None = None) -> tuple[int, int]:
    """Does a body in a process of its own, and perhaps kills it.

    Returns:
        Its exit status, and how many changes it made below ``place``.
    """
    count = place.with_suffix(".count")
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status, int(count.read_text()) if status == 0 else 0
    status = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2) if kill_at else None
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        _quiet_libraries()
        changes = Changes(place, kill_at)
        body(place)
        count.write_text(str(changes.seen))
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def training(cache: Path, *words: str) -> Callable[[Path], None]:
    """What ``train.py hydra.run.dir=PLACE/run resume=auto`` does after its command line."""

    def body(place: Path) -> None:
        train.run(small_settings(cache, place / "run", *WORDS, *words, "resume=auto"))

    return body


def exporting(run: Path) -> Callable[[Path], None]:
    """An export."""

    def body(place: Path) -> None:
        if (place / "export").exists():
            return  # it was whole: the command says that it is there
        words = [f"checkpoint={run}/checkpoints/best.ckpt", "format=peft", f"output={place}/export"]
        export.run(typed(compose_config(*words, name="export"), export.Settings))

    return body


def reporting(run: Path) -> Callable[[Path], None]:
    """A report."""

    def body(place: Path) -> None:
        words = [f"checkpoint={run}/checkpoints/best.ckpt", f"output={place}/report", "report.bootstrap=5"]
        words += [f"paths.output_dir={place}/job", f"paths.cache_dir={run.parent}/cache"]
        evaluate.run(typed(compose_config(*words, name="evaluate"), evaluate.Settings))

    return body


def recording(place: Path) -> None:
    """The record of a sweep's job, from its begin to its end."""
    record = read_record(place, "0" * 16)
    if record is None or record.state != "finished":
        write_record(place, JobRecord("0" * 16, "running", "job", ("seed=0",)))
        write_record(place, JobRecord("0" * 16, "finished", "job", ("seed=0",), objective=0.5))


def files(place: Path) -> set[str]:
    """The files below a folder, but for event files and hidden ones, and the last but one checkpoint.

    That one depends on where the run was cut: between two moves there is none, and the next may be the last of all.
    """
    found = (path for path in place.rglob("*") if path.is_file() and not path.name.startswith(("events.", ".")))
    found = (path for path in found if path.name != PREVIOUS)
    return {path.relative_to(place).as_posix() for path in found}


def check(whole: Path, broken: Path) -> None:
    """Compares what two commands left.

    Raises:
        AssertionError: they differ.
    """
    assert files(broken) == files(whole), sorted(files(broken) ^ files(whole))
    if (whole / "run").is_dir():
        assert_same_run(broken / "run", whole / "run")
    for name in ("export/SHA256SUMS", "report/report.md"):
        if (whole / name).is_file():
            assert (broken / name).read_bytes() == (whole / name).read_bytes().replace(
                str(whole).encode(), str(broken).encode()
            )
    hidden = [*broken.rglob(".*.part"), *broken.rglob(".run.json.*")]
    assert not (broken / "run").is_dir() or not hidden, hidden


def commands(cache: Path, run: Path) -> dict[str, Callable[[Path], None]]:
    """What is killed."""
    frozen = ("model/adaptation=frozen", "features=cached", "data.eval_batch_size=64")
    return {
        "start and checkpoints": training(cache),
        "feature store": lambda place: training(cache, *frozen, f"features.cache_dir={place}/features")(place),
        "export": exporting(run),
        "report": reporting(run),
        "record of a job": recording,
    }


def try_each(name: str, body: Callable[[Path], None], root: Path, every: int, first: int = 0) -> tuple[int, int]:
    """Kills a command at every so many changes, from the given or a random one on.

    Returns:
        How many changes it makes, and at how many of them it was killed.

    Raises:
        AssertionError: it cannot be given again, or ends otherwise.
    """
    place = root / name.replace(" ", "_")
    whole = place / "whole"
    whole.mkdir(parents=True)
    status, changes = in_a_process(whole, body)
    assert status == 0, f"{name}: the unbroken one fails"
    first = first or 1 + random.Random(name).randrange(min(every, changes))
    numbers = range(first, changes + 1, every)
    for number in numbers:
        broken = place / f"broken{number}"
        broken.mkdir()
        status, _ = in_a_process(broken, body, kill_at=number)
        assert status == 137, f"{name}, {number} of {changes}: ended with {status} and not by the kill"
        status, _ = in_a_process(broken, body)
        assert status == 0, f"{name}: given again after a kill at {number} of {changes}, it ends with {status}"
        check(whole, broken)
        shutil.rmtree(broken)
    return changes, len(numbers)


def prepare(root: Path, cache: Path) -> dict[str, Callable[[Path], None]]:
    """Makes the run that is exported and reported on, and the cache; the commands."""
    status, _ = in_a_process(root / "base", training(cache))
    assert status == 0
    return commands(cache, root / "base" / "run")


def main() -> None:
    """Prints how many kills each command stood."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="a kill at each so many changes")
    parser.add_argument("--only", nargs="*", help="of the commands")
    options, console = parser.parse_args(), Console()
    with tempfile.TemporaryDirectory() as folder:
        for name, body in prepare(Path(folder), Path(folder) / "cache").items():
            if options.only and name not in options.only:
                continue
            changes, kills = try_each(name, body, Path(folder), options.every)
            console.print(f"{name}: {changes} changes, killed at {kills} of them, each ended as the unbroken one")


if __name__ == "__main__":
    main()
