"""What goes wrong around a run, done to it for real: one line, and what was there stays whole."""

import os
import re
import resource
import shutil
import signal
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError

from siglip_med.commands import train
from siglip_med.core import errors
from siglip_med.core.errors import UserError
from siglip_med.data import loader
from siglip_med.data.dataset import ImageDataset
from siglip_med.launch import entry
from siglip_med.models import read_checkpoint
from siglip_med.training.checkpointing import POSITION
from siglip_med.training.module import TwoTowerModule
from tests.launch.faults import faulty
from tests.short_runs import small_settings

WORDS = [
    "trainer.max_steps=4",
    "data.batch_size=32",
    "callbacks.loss_diagnostics=null",
    "callbacks.checkpoint.every_n_steps=1",
]


def refusal(settings):
    with pytest.raises(UserError) as refused:
        train.run(settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def after_steps(monkeypatch):
    """Calls a function once, when so many steps are done."""

    def call(step, function):
        original, done = TwoTowerModule.on_train_batch_end, []

        def hook(self, *arguments):
            original(self, *arguments)
            if self.trainer.global_step == step and not done:
                done.append(function())

        monkeypatch.setattr(TwoTowerModule, "on_train_batch_end", hook)

    return call


def test_a_disk_that_takes_no_more_leaves_the_checkpoint_before(cache, tmp_path, after_steps):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python has it: the write fails with an error
    after_steps(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1])))
    try:
        line = refusal(small_settings(cache, tmp_path / "run", *WORDS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot be written (File too large)" in line
    folder = tmp_path / "run" / "checkpoints"
    assert read_checkpoint(folder / "last.ckpt")[POSITION]["step"] == 2
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("place", ["output_dir", "cache_dir"])
def test_a_folder_that_cannot_be_made_is_named(place, cache, tmp_path):
    (tmp_path / "file").write_text("no folder")
    settings = small_settings(cache, tmp_path / "run", *WORDS, f"paths.{place}={tmp_path}/file/inside")
    assert str(tmp_path / "file") in refusal(settings)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_data_worker_that_is_killed_costs_one_line(cache, tmp_path, monkeypatch):
    original = ImageDataset.__getitems__

    def killed(self, items):
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, items)

    monkeypatch.setattr(ImageDataset, "__getitems__", killed)
    line = refusal(small_settings(cache, tmp_path / "run", *WORDS, "data.num_workers=1"))
    assert "a process that makes batches died" in line
    assert f"resume={tmp_path / 'run'}" in line


def test_images_that_go_during_a_run_are_not_missed(cache, tmp_path, after_steps, capsys):
    own = tmp_path / "cache"
    settings = small_settings(own, tmp_path / "run", *WORDS)
    after_steps(2, lambda: shutil.rmtree(own / "synthetic"))
    train.run(settings)  # the pixels of every image were read before training began
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert re.search(r"nearest training cases: all .* without thumbnails \(.* does not exist", capsys.readouterr().out)


def test_a_batch_that_shared_memory_does_not_take_costs_one_line(cache, tmp_path, monkeypatch, capfd):
    """The worker's thread that hands it over fails, and the main process would wait for ever."""
    original = ImageDataset.__getitems__

    def full(self, items):
        if torch.utils.data.get_worker_info() is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))
        return original(self, items)

    monkeypatch.setattr(ImageDataset, "__getitems__", full)
    monkeypatch.setattr(errors, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(errors.shutil, "disk_usage", lambda _: SimpleNamespace(free=64 * 2**20))
    line = refusal(small_settings(cache, tmp_path / "run", *WORDS, "data.num_workers=1"))
    assert f"hand over batches, {tmp_path}, is full or too small" in line
    assert "--shm-size" in line
    assert f"resume={tmp_path / 'run'}" in line


def test_processes_that_hang_are_not_waited_for_for_ever(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "WORKER_PATIENCE", 1.0)
    monkeypatch.setattr(ImageDataset, "__getitems__", lambda *_: time.sleep(60))
    line = refusal(small_settings(cache, tmp_path / "run", *WORDS, "data.num_workers=1"))
    assert "the processes that make batches gave none for" in line
    assert "data.num_workers=0" in line


@pytest.mark.parametrize(("fault", "said"), [("cut", "has cut it during the run"), ("removed", None)])
def test_a_cache_that_is_cut_during_a_run_is_noticed_and_one_that_is_removed_read_on(
    fault, said, cache, tmp_path, after_steps
):
    own = tmp_path / "cache"

    def spoil():
        (pixels,) = own.rglob("pixels.bin")
        os.truncate(pixels, 1000) if fault == "cut" else pixels.unlink()

    after_steps(2, spoil)
    settings = small_settings(own, tmp_path / "run", *WORDS)
    if said is None:
        train.run(settings)
    else:
        assert said in refusal(settings)


def after(first, then):
    """An error that was met while another one was cleared up."""
    then.__context__ = first
    return then


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "/data/x"), "/data/x: No space left on device"),
        (OSError(36, "File name too long", "y" * 300), "File name too long"),
        (PermissionError(13, "Permission denied", "/data"), "/data: Permission denied"),
        (MemoryError(), "there is not enough memory (MemoryError)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory:\nyou tried"), "there is not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), "there is not enough memory (CUDA out of memory.)"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "a file cannot be read or written: I/O"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "is full or too small"),
        (
            RuntimeError("unable to resize file </torch_7684_1> to the right size: File too large (27)"),
            "written: unable",
        ),
        (
            RuntimeError("unable to open shared memory object </torch_1_2> in read-write mode: Too many (24)"),
            "a file can",
        ),
        (OSError(24, "Too many open files", b"/data/x"), "/data/x: Too many open files; allow more (ulimit -n 4096)"),
        (ImportError("libx.so: failed to map segment from shared object"), "there is not enough memory"),
        (RuntimeError("can't start new thread"), "there is not enough memory"),
        (
            OSError(
                "Caught OSError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                "  File \"x.py\", line 1, in f\nOSError: [Errno 24] Too many open files: '/data/x'\n"
            ),
            "a file: Too many open files: '/data/x'; allow more",
        ),
        (after(MemoryError(), RuntimeError("the loader was never started")), "there is not enough memory"),
        (after(OSError(2, "No such file", "/data/x"), KeyError("a bug")), None),
        (KeyError("a bug"), None),
        (OSError("a bug without a number"), None),
    ],
)
def test_an_error_of_the_machine_is_one_line_and_a_bug_is_none(error, said):
    line = errors.of_the_machine(error)
    assert (line is None) == (said is None)
    if said is not None:
        assert said in str(line)
        assert "\n" not in str(line)


@pytest.mark.parametrize("fault", ["files of 1 kB at most", "a file in the way", "a name of 300 characters"])
def test_what_hydra_cannot_write_is_one_line(fault, tmp_path):
    wrong, last = faulty("labels", fault, tmp_path, tmp_path / "command")
    assert wrong == ""
    assert last.startswith("error: ")


def test_a_thread_that_meets_a_full_disk_says_a_line_and_a_bug_keeps_its_traceback(capsys):
    for error, said in (
        (OSError(28, "No space left on device", "/x"), "error: /x: No space"),
        (KeyError(1), "Exception in thread"),
    ):
        entry._of_a_thread(threading.ExceptHookArgs((type(error), error, None, threading.current_thread())))
        assert said in capsys.readouterr().err
