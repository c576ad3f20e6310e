"""What a command does on a signal to stop: by a scheduler (SIGTERM, SIGUSR1), its user (Ctrl-C), a closed terminal."""

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from siglip_med.core.outside import say

SIGNALS = tuple(
    number for name in ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP") if (number := getattr(signal, name, None)) is not None
)

CLEARING = 5.0
"""Seconds after a signal in which another one, but for Ctrl-C, is the same one repeated."""


class Stopped(BaseException):  # as KeyboardInterrupt: no library may take it for an error of its own and wrap it
    """A run has stopped on a signal.

    Attributes:
        signal: the signal's number.
        step: optimizer steps done, or None outside of training.
        folder: of the run, if there is something to resume.
    """

    def __init__(self, number: int, step: int | None = None, folder: Path | None = None) -> None:
        super().__init__(number)
        self.signal, self.step, self.folder = number, step, folder

    @property
    def exit_status(self) -> int:
        """128 + signal: 143 for SIGTERM, 138 for SIGUSR1 on Linux, 130 for Ctrl-C, 129 for SIGHUP."""
        return 128 + self.signal

    @property
    def name(self) -> str:
        """Of the signal."""
        return signal.Signals(self.signal).name

    @property
    def line(self) -> str:
        """Of a command that has nothing to resume."""
        return f"stopped by {self.name}; to start it again: the same command"

    def say(self) -> None:
        """Prints the line."""
        print(self.line, file=sys.stderr, flush=True)


class Interruption:
    """Whether the process got a signal to stop, and which.

    While it is armed (during training) a signal is noted, and the run stops between two steps, when its checkpoint is
    written; a second Ctrl-C ends it at once. Otherwise a signal raises `Stopped` where it arrives.

    Attributes:
        received: the signal, if there was one.
        leave: ends the process in place of `Stopped`, while libraries are imported: an exception out of nowhere leaves
            some of them half made, and is lost in others.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.leave: Callable[[Stopped], None] | None = None
        self._armed = False
        self._since = 0.0
        self._process = os.getpid()

    def __reduce__(self) -> Any:
        return Interruption, ()  # a job in a process of its own has its own

    def arm(self) -> None:
        """From now on a signal waits for the end of the step; takes back what a library may have installed since."""
        self._armed = True
        self._install()

    def disarm(self) -> None:
        """From now on a signal stops the process where it is."""
        self._armed = False
        self._install()

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a job in a shell's background
                    signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            return  # a data worker: its parent decides
        if number == getattr(signal, "SIGHUP", None):
            _leave_terminal()
        again, self.received = self.received is not None, number
        if again and number != signal.SIGINT and time.monotonic() - self._since < CLEARING:
            return  # torchrun repeats what the process group had already: let the first one clear up
        self._since = time.monotonic()
        if self.leave is not None:
            self.leave(Stopped(number))
            os._exit(128 + number)
        if not self._armed or (again and number == signal.SIGINT):
            raise Stopped(number)
        if not again:
            say(
                f"{signal.Signals(number).name}: saving after this step"
                + ("; Ctrl-C again stops at once" if number == signal.SIGINT else "")
            )


def _leave_terminal() -> None:
    """What is printed to a terminal that was closed would be an error; files and pipes still take it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)
    os.close(nowhere)


def leave_signals_to_parent() -> None:
    """In a data worker: a signal to the whole process group is the parent's to answer; the parent's own still ends it.

    Needs `signal.sigwaitinfo`, which tells who sent a signal (Linux); elsewhere a worker dies of it, as PyTorch has it.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    parent = os.getppid()

    def wait() -> None:
        while signal.sigwaitinfo(SIGNALS).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True, name="signals").start()


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Catches the signals for the time of a run, and restores the handlers afterwards."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    process = os.getpid()
    interruption.disarm()
    try:
        yield interruption
    finally:
        if os.getpid() == process:
            for number, handler in before.items():
                signal.signal(number, handler)
