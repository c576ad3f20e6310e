"""The processes of a job: one decides, the others are told, and none waits for one that has died."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from siglip_med.core.errors import UserError
from siglip_med.launch import ranks
from siglip_med.runs.folder import claim
from siglip_med.runs.resume import find_auto
from siglip_med.training.agreement import Agreement
from tests.processes import REPOSITORY

PROGRAM = """
import sys, time
from siglip_med.core.errors import UserError, fail
from siglip_med.launch import ranks
ranks.BEAT, ranks._GRACE, ranks.MISSED = 0.1, 0.3, 50

class Environment:  # Lightning's takes seconds to import
    main_address, main_port = "127.0.0.1", int(sys.argv[3])
    global_rank, world_size = staticmethod(lambda: int(sys.argv[2])), staticmethod(lambda: 2)

ranks._environment = Environment

def decide():
    if sys.argv[1] == "refused":
        raise UserError("no")
    return ["a folder"]

try:
    with ranks.joined() as here:
        print(here.told("words", decide), flush=True)
        while sys.argv[1] == "goes on" and not here._has("alive/1"):
            time.sleep(0.05)
        if sys.argv[1] == "waits":
            time.sleep(60)
        if sys.argv[1] == "stops" and here.rank:
            raise SystemExit(7)
        if sys.argv[1] == "stops":
            time.sleep(60)
except UserError as error:
    fail(error)
"""


def start(how):
    """Two processes of one job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, how, rank, port],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]


def ends(processes):
    return [(*process.communicate(timeout=50), process.returncode) for process in processes]


def test_the_first_decides_and_both_end_well():
    assert [(out, code) for out, _, code in ends(start("goes on"))] == [("['a folder']\n", 0)] * 2


def test_what_the_first_refuses_is_said_once():
    (_, first, one), (_, second, two) = ends(start("refused"))
    assert (one, two) == (2, 2)
    assert "error: no\n" in first
    assert "error" not in second


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_is_killed_ends_the_other(rank):
    processes = start("waits")
    for process in processes:
        assert process.stdout.readline() == "['a folder']\n"
    began = time.monotonic()
    processes[rank].send_signal(signal.SIGKILL)
    _, error, code = ends([processes[1 - rank]])[0]
    processes[rank].communicate()
    assert code == 1
    assert f"error: process {rank} of this run has ended, and process {1 - rank} ends too" in error
    assert time.monotonic() - began < 20


def test_one_that_ends_with_an_error_ends_the_other_with_it():
    (_, error, code), (*_, other) = ends(start("stops"))
    assert (code, other) == (7, 7)
    assert "process 1 of this run has ended" in error


class Trainer:
    world_size = 2
    is_global_zero = True


@pytest.mark.parametrize("zero", [True, False])
def test_processes_that_differ_stop_and_the_first_says_in_what(zero, monkeypatch):
    facts = {"seed": "0", "the split": "abc"}
    trainer = Trainer()
    trainer.is_global_zero = zero

    def gather(found, mine):
        found[:] = [facts, facts | {"the split": "xyz"}]

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    with pytest.raises(UserError if zero else SystemExit) as stopped:
        Agreement(facts).on_fit_start(trainer, None)
    if zero:
        assert "the split is xyz in process 1 and abc in process 0" in str(stopped.value)
    monkeypatch.setattr(
        "torch.distributed.all_gather_object", lambda found, mine: found.__setitem__(slice(None), [mine] * 2)
    )
    Agreement(facts).on_fit_start(trainer, None)


def test_auto_says_what_it_found_and_why(tmp_path):
    now = {"seed": 1, "paths": {"output_dir": str(tmp_path / "new")}}
    assert find_auto(now, tmp_path / "new") == (None, f"no run in {tmp_path}: a new one begins")
    claim(tmp_path / "other", {"seed": 0, "paths": {"output_dir": str(tmp_path / "other")}})
    point, why = find_auto(now, tmp_path / "new")
    assert point is None
    assert "none of 1 runs" in why
    assert "seed=0 and not 1" in why
    claim(tmp_path / "same", {"seed": 1, "paths": {"output_dir": str(tmp_path / "same")}})
    point, why = find_auto(now, tmp_path / "new")
    assert point is not None
    assert (point.folder, "1 of 2 runs there have these settings" in why) == (tmp_path / "same", True)
    assert find_auto(now, tmp_path / "new", neighbors=False)[0] is None


def test_srun_is_seen_by_its_variables_and_one_task_is_one_process(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"NTASKS": "2", "NTASKS_PER_NODE": "2", "PROCID": "1", "JOB_ID": "123456"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_NODELIST", "node[7-9]")
    monkeypatch.setenv("MASTER_PORT", "29511")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    found = ranks._environment()
    assert (found.global_rank(), found.world_size(), found.main_port) == (1, 2, 29511)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert ranks._environment() is None
