"""Runs of two processes under each launcher, killed, resumed and named, against unbroken ones.

``python -m tests.launch.launchers`` does every case (about twenty minutes): Lightning's own processes, torchrun, and
``srun`` by its variables. It prints what each ended with.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from tests.processes import REPOSITORY, TORCHRUN
from tests.runs.test_resume import assert_same_run
from tests.short_runs import SMALL

WORDS = [
    *SMALL,
    "experiment=baseline",
    "data.batch_size=8",
    "trainer=ddp",
    "trainer.devices=2",
    "trainer.accelerator=cpu",
    "trainer.max_steps=12",
    "trainer.val_check_interval=4",
    "trainer.check_val_every_n_epoch=null",
    "trainer.log_every_n_steps=1",
    "callbacks.checkpoint.every_n_steps=1",
    "callbacks.loss_diagnostics=null",
    "evaluation.probe_images=0",
    "refit=null",
    "resume=auto",
]
LAUNCHERS = ("lightning", "torchrun", "srun")


class Job:
    """The processes of one command under a launcher, in a session of their own; what they print goes to a file."""

    def __init__(self, launcher: str, cache: Path, screen: Path, words: list[str], slow: float = 0.0) -> None:
        script = ["train.py"] if not slow else ["-m", "tests.launch.slowly"]
        self.screen = screen
        base = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "SIGLIP_MED_CACHE": str(cache)}
        base |= {"PYTHONPATH": str(REPOSITORY), "PAUSE": str(slow)}
        commands = [(base, [*TORCHRUN, *script])] if launcher == "torchrun" else [(base, script)]
        if launcher == "srun":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            slurm = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
            slurm |= {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "job", "SLURM_NODELIST": "127.0.0.1"}
            ranks = [base | slurm | {"SLURM_PROCID": r, "SLURM_LOCALID": r, "MASTER_PORT": port} for r in ("0", "1")]
            commands = [(rank, script) for rank in ranks]
        with screen.open("ab") as out:
            self.processes = [
                subprocess.Popen(
                    [sys.executable, *command, *words],
                    cwd=REPOSITORY,
                    env=environment,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
                for environment, command in commands
            ]

    def wait(self, seconds: float = 240) -> list[int]:
        """Exit statuses; whatever is left after so many seconds is killed, and an error."""
        end = time.monotonic() + seconds
        try:
            return [process.wait(max(0.1, end - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {seconds:.0f} s: {self.tail()}") from None
        finally:
            for process in self.processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def kill(self, rank: int) -> None:
        """Kills one rank, as the kernel does a process that takes too much memory."""
        os.kill(self.pids()[rank], signal.SIGKILL)

    def pids(self) -> list[int]:
        """Of the ranks, in order."""
        if len(self.processes) > 1:
            return [process.pid for process in self.processes]
        parent = self.processes[0].pid
        children = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        ranks = {_rank(pid): pid for pid in [parent, *children] if _rank(pid) is not None}
        return [ranks[rank] for rank in sorted(ranks)]

    def tail(self) -> str:
        """The end of what they printed."""
        return self.screen.read_text(errors="replace")[-2500:]


def _rank(pid: int) -> str | None:
    """``LOCAL_RANK`` of a process; Lightning's first process has none when it starts."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    found = [value.partition(b"=")[2].decode() for value in variables if value.startswith(b"LOCAL_RANK=")]
    if found:
        return found[0]
    is_agent = b"torch.distributed.run" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return None if is_agent else "0"


def runs(logs: Path) -> list[Path]:
    """The folders that a job without a named one has made."""
    return sorted((logs / "finetune" / "runs").glob("*"))


def wait_for(path: Path, pattern: str, job: Job) -> None:
    """Returns when a file of that pattern is there."""
    while not list(path.glob(pattern)):
        assert all(process.poll() is None for process in job.processes), job.tail()
        time.sleep(0.05)


def fresh_and_killed(launcher: str, cache: Path, place: Path, rank: int) -> float:
    """Kills a rank of a run without a named folder, and gives the same command again.

    Returns:
        Seconds until the others had ended.

    Raises:
        AssertionError: they did not, the run cannot be resumed, it is not the unbroken one, or left a second folder.
    """
    whole, broken = place / "whole", place / "broken"
    if not whole.exists():
        job = Job(launcher, cache, place / "whole.log", [*WORDS, f"paths.log_dir={whole}"])
        assert set(job.wait()) == {0}, job.tail()
        assert "resume=auto: no run in" in job.tail() or "resume=auto" in job.screen.read_text()
    job = Job(launcher, cache, place / "broken.log", [*WORDS, f"paths.log_dir={broken}"], slow=0.5)
    wait_for(broken, "finetune/runs/*/checkpoints/previous.ckpt", job)
    job.kill(rank)
    began = time.monotonic()
    assert 0 not in job.wait(60), job.tail()
    taken = time.monotonic() - began
    Console().print(job.tail()[-1200:], highlight=False, markup=False)
    job = Job(launcher, cache, place / "again.log", [*WORDS, f"paths.log_dir={broken}"])
    assert set(job.wait()) == {0}, job.tail()
    assert "runs there have these settings" in job.screen.read_text()
    (one,), (other,) = runs(whole), runs(broken)
    assert_same_run(other, one)
    return taken


def named_beside_a_finished_one(launcher: str, cache: Path, place: Path) -> None:
    """A named folder is the run's, whatever its neighbour holds."""
    for name in ("job_a", "job_b"):
        before = {path: path.stat().st_mtime_ns for path in (place / "job_a").rglob("*")} if name == "job_b" else {}
        job = Job(launcher, cache, place / f"{name}.log", [*WORDS, f"hydra.run.dir={place / name}"])
        assert set(job.wait()) == {0}, job.tail()
        assert before == {path: path.stat().st_mtime_ns for path in before}
    assert_same_run(place / "job_b", place / "job_a")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=LAUNCHERS, help="one of the three")
    only, console = parser.parse_args().only, Console()
    with tempfile.TemporaryDirectory() as folder:
        for launcher in LAUNCHERS if only is None else (only,):
            for rank in (1, 0):
                place = Path(folder) / f"{launcher}{rank}"
                place.mkdir()
                taken = fresh_and_killed(launcher, Path(folder) / "cache", place, rank)
                console.print(
                    f"{launcher}: rank {rank} killed, the other ended after {taken:.0f} s; resumed, bit-equal"
                )
            named_beside_a_finished_one(launcher, Path(folder) / "cache", place)
            console.print(f"{launcher}: a named folder beside a finished run: a run of its own, bit-equal")


if __name__ == "__main__":
    main()
