"""What goes wrong around a run, done to it for real: one line, and what was there stays whole."""

import os
import re
import resource
import shutil
import signal

import pytest
import torch

from siglip_med.commands import train
from siglip_med.core.errors import UserError
from siglip_med.data.dataset import ImageDataset
from siglip_med.models import read_checkpoint
from siglip_med.training.checkpointing import POSITION
from siglip_med.training.module import TwoTowerModule
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
