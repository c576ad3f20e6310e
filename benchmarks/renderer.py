"""Pictures a second that one core renders, by side in pixels.

python benchmarks/renderer.py --sizes 64 224
"""

import argparse
import itertools
import time

import numpy as np

from siglip_med.synthetic.cases import plan_cases
from siglip_med.synthetic.recipes import load_recipes
from siglip_med.synthetic.renderer import draw_appearance, render


def rate(size: int, n_images: int) -> tuple[float, float]:
    """Pictures a second by wall clock and by processor time, over cases in their natural proportions."""
    cases = itertools.islice(plan_cases(load_recipes(), 3200, seed=0), n_images)
    start, processor = time.perf_counter(), time.process_time()
    for case in cases:
        rng = np.random.default_rng(case.number)
        render(draw_appearance(rng, case.layers, case.tone, case.site), size, rng)
    return n_images / (time.perf_counter() - start), n_images / (time.process_time() - processor)


def main() -> None:
    """Print one line a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    for size in arguments.sizes:
        wall, processor = rate(size, arguments.images)
        print(f"{size:4d} px: {wall:6.0f} images/s by the clock, {processor:6.0f} images/s of processor time")


if __name__ == "__main__":
    main()
