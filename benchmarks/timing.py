"""How the benchmarks time: variants in turn within one process, and the ratio pair by pair."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """What one variant costs against another: the median over the blocks, and the lowest and highest block."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def cost(function: Callable[[], object]) -> float:
    """Processor seconds of this process for one call: other work on the machine hardly lengthens them."""
    start = time.process_time()
    function()
    return time.process_time() - start


def compare(ours: Callable[[], object], theirs: Callable[[], object], blocks: int = 5) -> Ratio:
    """Time of ``ours`` over the time of ``theirs``, one call of each per block, the order turned over each time.

    Args:
        ours: what is judged.
        theirs: what it is judged against.
        blocks: counted pairs; one more before them is not counted.
    """
    return compare_costs(lambda: cost(ours), lambda: cost(theirs), blocks)


def compare_costs(ours: Callable[[], float], theirs: Callable[[], float], blocks: int = 5) -> Ratio:
    """The same for calls that say themselves what they cost."""
    ratios = []
    for block in range(blocks + 1):
        pair = [ours, theirs] if block % 2 else [theirs, ours]
        costs = {function: function() for function in pair}
        ratios.append(costs[ours] / costs[theirs])
    return summarize(ratios[1:])


class StepClock:
    """Processor seconds per step: called after each one, it leaves the first out, in which things are set up."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, *_: object) -> None:
        """Notes the end of a step."""
        self.times.append(time.process_time())

    def seconds(self) -> float:
        """Mean of the steps after the first."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


def summarize(ratios: list[float]) -> Ratio:
    """Median and range of ratios measured in turn."""
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))
