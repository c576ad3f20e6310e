"""Which checkpoints a run keeps."""

import math
import os
import stat

import pytest
import torch

from siglip_med.commands import train
from siglip_med.core.errors import UserError
from siglip_med.models import read_checkpoint, write_checkpoint
from siglip_med.training.checkpointing import POSITION, Checkpoints, normalize_counters
from tests.short_runs import small_settings

WORDS = ["trainer.max_steps=4", "trainer.val_check_interval=1", "data.batch_size=32", "callbacks.loss_diagnostics=null"]


class Trainer:
    """As much of a trainer as keeping checkpoints asks for."""

    is_global_zero = True
    loggers = ()

    def __init__(self):
        self.global_step = 0

    def save_checkpoint(self, path, weights_only):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(self.global_step))


def kept_of(folder, scores, **settings):
    """The steps that lie in the files after validations with these scores, one a step."""
    callback, trainer = Checkpoints(str(folder), "val/mrr", **settings), Trainer()
    for step, score in enumerate(scores, start=1):
        trainer.global_step = step
        callback._keep(trainer, None, score, step)
    return {path.name: int(path.read_text()) for path in folder.glob("*.ckpt")}


@pytest.mark.parametrize("k", [1, 2, 3, -1])
def test_best_is_the_best_whatever_else_is_kept(k, tmp_path):
    scores = [0.2, 0.5, 0.1, 0.5, 0.4]
    assert kept_of(tmp_path / "max", scores, mode="max", save_top_k=k)["best.ckpt"] == 2  # a tie keeps the earlier
    assert kept_of(tmp_path / "min", scores, mode="min", save_top_k=k)["best.ckpt"] == 3


def test_the_best_k_are_kept_and_no_other(tmp_path):
    scores = [0.2, 0.5, 0.1, 0.5, 0.4]
    assert kept_of(tmp_path / "two", scores, mode="max", save_top_k=2) == {
        "best.ckpt": 2,
        "step-2.ckpt": 2,
        "step-4.ckpt": 4,
    }
    assert len(kept_of(tmp_path / "all", scores, mode="max", save_top_k=-1)) == 6


@pytest.fixture(scope="module")
def folder(cache, tmp_path_factory):
    """A run of four steps with a validation after each."""
    folder, before = tmp_path_factory.mktemp("kept"), os.umask(0o027)
    try:
        train.run(small_settings(cache, folder, *WORDS))
    finally:
        os.umask(before)
    return folder / "checkpoints"


def test_a_run_leaves_its_best_its_last_and_the_one_before(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    last = read_checkpoint(folder / "last.ckpt")
    assert last[POSITION] == {"epoch": 0, "batches": 4, "step": 4, "finished": True}
    assert read_checkpoint(folder / "previous.ckpt")[POSITION]["step"] == 3
    state = last["callbacks"][next(key for key in last["callbacks"] if key.startswith("Checkpoints"))]
    assert state["best_step"] == read_checkpoint(folder / "best.ckpt")[POSITION]["step"]


def test_modes_follow_the_umask(folder):
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}


def test_other_programs_read_a_sealed_checkpoint(folder):
    assert "state_dict" in torch.load(folder / "best.ckpt", weights_only=True, mmap=True)


def test_a_write_that_fails_leaves_the_file_as_it_was(folder, tmp_path):
    path = tmp_path / "a.ckpt"
    write_checkpoint({"a": torch.zeros(3)}, path)
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_checkpoint({"a": torch.zeros(3), "b": lambda: None}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_never_validates_inside_validates_at_its_end(cache, tmp_path):
    train.run(small_settings(cache, tmp_path, *WORDS, "trainer.check_val_every_n_epoch=5"))
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()


def test_a_monitor_that_is_undefined_stops_the_run(tmp_path):
    class Fitting(Trainer):
        sanity_checking = fast_dev_run = False
        callback_metrics = {"val/mrr": torch.tensor(math.nan)}  # noqa: RUF012

        class state:
            fn = "fit"

    callback = Checkpoints(str(tmp_path), "val/mrr", "max")
    with pytest.raises(UserError, match=r"monitor=val/mrr is nan at step 0"):
        callback.on_validation_end(Fitting(), None)


@pytest.mark.parametrize(
    ("finished", "epochs", "done", "expected"),
    [(False, 2, 3, (2, 3)), (False, 2, 5, (3, 0)), (True, 3, 3, (2, 3)), (True, 3, 5, (3, 0)), (False, 2, 0, (2, 0))],
)
def test_where_a_run_stands_is_the_next_batch(finished, epochs, done, expected):
    def counts(number):
        return dict.fromkeys(("ready", "started", "processed", "completed"), number)

    loop = {
        "epoch_progress": {"total": counts(epochs), "current": counts(epochs)},
        "epoch_loop.batch_progress": {"total": counts(13), "current": counts(done), "is_last_batch": True},
        "epoch_loop.val_loop.batch_progress": {"total": counts(2), "current": counts(2), "is_last_batch": True},
        "epoch_loop.state_dict": {"_batches_that_stepped": 1},
    }
    checkpoint = {"loops": {"fit_loop": loop}, "global_step": 13}

    class Five:
        num_training_batches = 5

    normalize_counters(checkpoint, Five(), finished)
    assert (checkpoint[POSITION]["epoch"], checkpoint[POSITION]["batches"]) == expected
    assert loop["epoch_loop.batch_progress"]["current"] == counts(expected[1])
