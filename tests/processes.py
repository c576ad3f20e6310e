"""What tests with several processes share: the job that is the same on one and on several, and how processes end."""

import csv
import os
import subprocess
import sys
from pathlib import Path

from siglip_med.commands import train
from tests.short_runs import SMALL, small_settings

REPOSITORY = Path(__file__).resolve().parents[1]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
JOB = [
    "experiment=published_final",
    "data/sampling=oversample",
    "data.sampling.minimum=8",
    "trainer.accelerator=cpu",
    "trainer.val_check_interval=6",
    "trainer.check_val_every_n_epoch=null",
    "trainer.log_every_n_steps=1",
    "logger=csv",
    # Each process has dropout of its own, so only without it can the two runs be equal.
    "model.adaptation.dropout=0",
    # So that a run may be given its steps in two goes: nothing depends on how many it will have.
    "optimizer.warmup=0",
    "optimizer.final=1",
    "schedule.unit=step",
    "++schedule.knots={alpha: {20: 0.9}, beta: {0: 0, 10: 1}, gamma: {5: 0, 20: 1}, delta: {0: 0.5}}",
    # A softmax does not see the bias of its keys: the gradient of that bias is rounding alone, some 1e-9, and with
    # Adam's default eps of 1e-8 the weights walk on it by a share of the rate. Above it only gradients count.
    "optimizer.eps=1e-4",
    "callbacks.loss_diagnostics=null",
    "evaluation.probe_images=0",
]


def run_command(cache: Path, *words: str) -> None:
    """Runs Python on a command line in the repository's root."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SIGLIP_MED_CACHE": str(cache)}
    command = [sys.executable, *words]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def one_and_two(cache: Path, root: Path, steps: int, stop: int) -> tuple[Path, Path]:
    """Folders of a run in one process, and of one in two, stopped and resumed by torchrun, each with half a batch."""
    one, two = root / "one", root / "two"
    train.run(small_settings(cache, one, *JOB, f"trainer.max_steps={steps}"))
    words = [*SMALL, *JOB, "data.batch_size=8", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    run_command(cache, "train.py", *words, f"hydra.run.dir={two}", f"trainer.max_steps={stop}")
    run_command(cache, *TORCHRUN, "train.py", f"resume={two}", f"trainer.max_steps={steps}")
    return one, two


def rows(folder):
    """Step and name -> value, of everything that the run logged."""
    (path,) = folder.rglob("metrics.csv")
    with path.open(newline="") as file:
        return {
            (int(row["step"]), name): float(value)
            for row in csv.DictReader(file)
            for name, value in row.items()
            if value and name not in ("step", "epoch") and not name.startswith("perf/")
        }


def leave() -> None:
    """Ends this process at once, after its last collective and with its results written.

    An orderly end can hang: where a DistributedDataParallel model is the last owner of its gloo group, the group's
    destructor runs with the interpreter's lock held and waits for the group's thread, which may be waiting for the
    lock to let go of the last all-reduce.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
