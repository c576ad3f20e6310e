"""Does to every command what a machine does: ``python -m tests.launch.faults`` (about a quarter of an hour).

Each ends right, or with one line and exit status 2; none leaves a half-written file or folder.
"""

import argparse
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from tests.launch.stopped import commands, start, trained


def _limit(kind: int, most: int) -> None:
    resource.setrlimit(kind, (most, most))


LIMITS: dict[str, Callable[[], None]] = {
    "files of 1 kB at most": partial(_limit, resource.RLIMIT_FSIZE, 1_000),
    "files of 100 kB at most": partial(_limit, resource.RLIMIT_FSIZE, 100_000),
    "1 GB of address space": partial(_limit, resource.RLIMIT_AS, 10**9),
    "3 GB of address space": partial(_limit, resource.RLIMIT_AS, 3 * 10**9),
    "24 open files": partial(_limit, resource.RLIMIT_NOFILE, 24),
}
"""What the process may not exceed."""
PLACES = ("a file in the way", "a name of 300 characters")
LATER = ("its folder is removed",)
FAULTS = (*LIMITS, *PLACES, *LATER)
SHORT = {"trainer.max_steps=4000": "trainer.max_steps=20", "features.views=200": "features.views=2"}
"""What would take long, and what is run instead."""


def faulty(name: str, fault: str, run: Path, root: Path) -> tuple[str, str]:
    """Runs a command under a fault; what is wrong with how it ended (or nothing), and its last line."""
    root.mkdir()
    place, screen = root / "place", root / "screen.log"
    if fault == "a file in the way":
        place.write_text("no folder")
        place = place / "inside"
    elif fault == "a name of 300 characters":
        place = root / ("y" * 300)
    else:
        place.mkdir()
    words = [SHORT.get(word, word) for word in commands(run, place)[name]]
    process = start(name, words, root.parent / "cache", screen, LIMITS.get(fault))
    deadline = time.monotonic() + (30 if name == "demo" else 240)
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
        if fault in LATER and place.is_dir() and any(place.rglob("*.*")):
            time.sleep(2)
            shutil.rmtree(place, ignore_errors=True)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            return "still there after 60 s", ""
        if name != "demo":
            return "still there after 4 minutes", ""
    return ended(process.returncode, screen.read_text(errors="replace"), place)


def ended(status: int, printed: str, place: Path) -> tuple[str, str]:
    """What is wrong with an exit status, a screen and what was left."""
    lines = [line for line in printed.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")]
    last = (said or lines or [""])[-1]
    if "Traceback" in printed or "Exception ignored" in printed or "terminate called" in printed:
        return f"a traceback: {printed[-1500:]}", last
    if status not in (0, 2, 143) and not (status == 1 and "jobs failed" in printed):
        return f"exit status {status}: {printed[-800:]}", last
    if status == 2 and not said:
        return "no line says why", last
    found = [f"{folder}/{name}" for folder, folders, files in os.walk(place) for name in (*folders, *files)]
    parts = [path for path in found if ".part" in path or "/.export" in path]
    return (f"left behind: {parts}" if parts else ""), last


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="of the commands")
    parser.add_argument("--faults", nargs="*", default=FAULTS, help="some of them")
    options, console = parser.parse_args(), Console()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run = trained(root)
        for name in commands(run, root):
            if options.only and name not in options.only:
                continue
            for number, fault in enumerate(options.faults):
                wrong, last = faulty(name, fault, run, root / f"{name}{number}")
                faults += bool(wrong)
                line = f"{name}, {fault}: {wrong or 'clean'} | {last[:200]}"
                console.print(line, soft_wrap=True, highlight=False, markup=False)
    raise SystemExit(faults > 0)


if __name__ == "__main__":
    main()
