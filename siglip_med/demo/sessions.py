"""What is remembered of the tabs that are open, and for how long."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Sessions(Generic[Value]):
    """One value per tab, in memory alone; gone when the tab closes, after a time, or when too many are open."""

    def __init__(self, capacity: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Remembers at most ``capacity`` tabs, idle ones for so many seconds."""
        self._capacity, self._seconds, self._clock = capacity, seconds, clock
        self._values: OrderedDict[str, tuple[float, Value]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._values)

    def put(self, tab: str, value: Value) -> None:
        """Remembers a value in place of the tab's earlier one."""
        with self._lock:
            self._values[tab] = (self._clock(), value)
            self._values.move_to_end(tab)
            while len(self._values) > self._capacity:
                self._values.popitem(last=False)
        self.purge()

    def get(self, tab: str) -> Value | None:
        """The tab's value, which counts as used now; None where it was forgotten."""
        self.purge()
        with self._lock:
            if tab not in self._values:
                return None
            _, value = self._values[tab]
            self._values[tab] = (self._clock(), value)
            self._values.move_to_end(tab)
            return value

    def forget(self, tab: str) -> None:
        """Forgets a tab."""
        with self._lock:
            self._values.pop(tab, None)

    def purge(self) -> None:
        """Forgets the tabs that were idle too long."""
        with self._lock:
            oldest = self._clock() - self._seconds
            for tab in [tab for tab, (used, _) in self._values.items() if used <= oldest]:
                del self._values[tab]
