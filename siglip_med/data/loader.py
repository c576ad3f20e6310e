"""The loader of every split, which knows how long batches were waited for, and what became of its processes."""

import multiprocessing.queues
import os
import sys
import traceback
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import cv2
from torch.utils.data import DataLoader

from siglip_med.core.errors import WORKER_PATIENCE, of_the_machine
from siglip_med.core.signals import leave_signals_to_parent
from siglip_med.data.batch import Batch


class TimedLoader(DataLoader[Batch]):
    """PyTorch's loader, and the seconds that its user has waited for batches so far, over all epochs."""

    waited = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("num_workers"):
            kwargs |= {"timeout": WORKER_PATIENCE, "worker_init_fn": _one_of_many}
            if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
                # a job of launcher=parallel is a process of joblib's own kind, which plain ones cannot be started as
                kwargs["multiprocessing_context"] = multiprocessing.get_all_start_methods()[0]
        super().__init__(*args, **kwargs)

    def __iter__(self) -> Any:
        """The batches; workers start at once, as in PyTorch."""
        return self._timed(super().__iter__())

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            asked = perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waited += perf_counter() - asked
            yield batch


def _one_of_many(worker: int) -> None:
    """A worker is one process of many: OpenCV would start a thread per core in each, and signals are for the first.

    A batch that cannot be handed over would be waited for in vain: its process ends instead.
    """
    cv2.setNumThreads(0)
    leave_signals_to_parent()
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_not_handed_over)  # type: ignore[attr-defined]


def _not_handed_over(error: BaseException, batch: Any) -> None:
    line = of_the_machine(error)
    if line is None:
        traceback.print_exception(error)
    elif "No space" not in str(line):  # of which the process that waits tells more
        print(f"a process that makes batches: {line}", file=sys.stderr)
    os._exit(1)
