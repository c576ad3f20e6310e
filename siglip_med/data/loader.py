"""The loader of every split, which knows how long batches were waited for."""

from collections.abc import Iterator
from time import perf_counter
from typing import Any

from torch.utils.data import DataLoader

from siglip_med.data.batch import Batch


class TimedLoader(DataLoader[Batch]):
    """PyTorch's loader, and the seconds that its user has waited for batches so far, over all epochs."""

    waited = 0.0

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
