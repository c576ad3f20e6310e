"""What a run does on a signal to stop: by a scheduler (SIGTERM, SIGUSR1) or by its user (Ctrl-C)."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

SIGNALS = tuple(
    number for name in ("SIGTERM", "SIGUSR1", "SIGINT") if (number := getattr(signal, name, None)) is not None
)


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
        """128 + signal: 143 for SIGTERM, 138 for SIGUSR1 on Linux, 130 for Ctrl-C."""
        return 128 + self.signal


class Interruption:
    """Whether the process got a signal to stop, and which.

    While it is armed (during training) a signal is noted, and the run stops between two steps, when its checkpoint is
    written; a second Ctrl-C ends it at once. Otherwise a signal raises `Stopped` where it arrives.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._armed = False
        self._process = os.getpid()

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
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            return  # a data worker: its parent decides
        again, self.received = self.received is not None, number
        if not self._armed or (again and number == signal.SIGINT):
            raise Stopped(number)
        if not again:
            Console(stderr=True).print(
                f"{signal.Signals(number).name}: saving after this step"
                + ("; Ctrl-C again stops at once" if number == signal.SIGINT else ""),
                soft_wrap=True,
                highlight=False,
            )


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
