"""What a report of many images takes: seconds and memory, with validation, zero-shot and a bootstrap beside it.

python benchmarks/report.py --images 100000 --conditions 66
"""

import argparse
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from siglip_med.report import ReportInputs, ReportSettings, write_report
from tests.metrics.simulated import make_predictions


def main() -> None:
    """Prints one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--conditions", type=int, default=66)
    parser.add_argument("--bootstrap", type=int, default=1000)
    options = parser.parse_args()
    size = {"conditions": options.conditions, "cases": max(options.images // 2, 1)}
    test = make_predictions(0, options.images, **size)
    inputs = ReportInputs(
        test=test,
        val=make_predictions(1, options.images // 10, split="val", **size),
        zero_shot=replace(test, logits=make_predictions(2, options.images, **size).logits),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    start, used = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        write_report(inputs, Path(folder), ReportSettings(bootstrap=options.bootstrap))
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{options.images:,} images x {options.conditions}, {options.bootstrap:,} resamples: {seconds:.0f} s "
        f"({processor:.0f} s of processor time), at most {peak:.2f} GB, of which the predictions {before:.2f}"
    )


if __name__ == "__main__":
    main()
