"""The refit of a large training set: seconds and memory of the fit, its choice on validation and its calibration.

    python benchmarks/refit.py
    python benchmarks/refit.py --images 50000 --conditions 66 --features 384

Features are random clusters, since only the work is measured; embedding the images comes on top, one pass over them.
"""

import argparse
import resource
import time

import numpy as np

from siglip_med.metrics import Predictions, fit_kernel_ridge


def clusters(images: int, conditions: int, features: int, validation: int) -> tuple[np.ndarray, np.ndarray]:
    """``[images + validation, features]`` float32, and the condition of each."""
    rng = np.random.default_rng(0)
    centers, primary = rng.normal(size=(conditions, features)), rng.integers(conditions, size=images + validation)
    noise = rng.normal(scale=3.0, size=(len(primary), features))
    return (centers[primary] + noise).astype(np.float32), primary


def main() -> None:
    """Fits once, and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("images", 50_000), ("conditions", 66), ("features", 384), ("validation", 5_000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    x, primary = clusters(given.images, given.conditions, given.features, given.validation)
    labels, images = np.eye(given.conditions, dtype=np.float32)[primary], given.images
    val = Predictions.of(np.zeros((given.validation, given.conditions)), labels[images:])
    start, cpu = time.perf_counter(), time.process_time()
    fitted = fit_kernel_ridge(x[:images], labels[:images], x[images:], val).calibrated(x[images:], val)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{images:,} images x {given.conditions} x {given.features}: {fitted.about()}")
    print(f"{wall:.1f} s ({cpu:.1f} s of processor time), at most {peak:.2f} GB of memory")


if __name__ == "__main__":
    main()
