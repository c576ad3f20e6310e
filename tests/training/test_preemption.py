"""A run that is told to stop saves, says so, and ends with 128 + the signal."""

import os
import signal

import pytest

from siglip_med.commands import train
from siglip_med.core.config import instantiate
from siglip_med.core.signals import Interruption, Stopped, interruptible
from siglip_med.models import read_checkpoint
from siglip_med.training.checkpointing import POSITION
from siglip_med.training.module import TwoTowerModule
from tests.short_runs import small_settings


@pytest.fixture(autouse=True)
def heeded():
    """A suite that a shell started in its background ignores Ctrl-C, and so would these runs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


WORDS = ["trainer.max_steps=5", "data.batch_size=32", "callbacks.loss_diagnostics=null"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_in_training_saves_after_the_step(name, cache, tmp_path, monkeypatch, capsys):
    number, original = getattr(signal, name), TwoTowerModule.on_after_backward

    def signaled(self):
        original(self)
        if self.global_step == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    monkeypatch.setattr(TwoTowerModule, "on_after_backward", signaled)
    with pytest.raises(Stopped) as stopped:
        train.run(small_settings(cache, tmp_path, *WORDS))
    assert stopped.value.exit_status == 128 + number
    assert (stopped.value.step, stopped.value.folder) == (3, tmp_path)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")[POSITION]["step"] == 3
    assert f"{name}: saving after this step" in " ".join(capsys.readouterr().err.split())
    assert signal.getsignal(number) is before, "whoever had the signal has it again"


def test_a_signal_outside_of_training_ends_at_once():
    with pytest.raises(Stopped) as stopped, interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.exit_status == 143
    assert stopped.value.folder is None


def test_a_second_ctrl_c_does_not_wait():
    with interruptible() as interruption:
        interruption.arm()
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.received == signal.SIGINT
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_data_worker_leaves_signals_to_its_parent(capsys):
    interruption = Interruption()
    interruption._process = -1  # as in a forked process
    interruption._handle(signal.SIGTERM, None)
    assert interruption.received is None
    assert capsys.readouterr().err == ""


def stop_while_building() -> None:
    raise Stopped(15)


def test_a_signal_while_something_is_built_arrives_as_it_was_raised():
    with pytest.raises(Stopped):
        instantiate({"_target_": "tests.training.test_preemption.stop_while_building"})
