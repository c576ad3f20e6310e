"""How long a split of a big table takes, and how well it keeps the shares: ``python benchmarks/split_speed.py``."""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from siglip_med.data.splitting.split import GroupStratifiedSplitter, make_split
from siglip_med.data.table import ImageTable


def long_tailed(images: int, conditions: int, seed: int) -> ImageTable:
    """Images with one to three labels, condition c in proportion to 1 / (c + 1), and cases of one to three images."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, conditions + 1)
    labels = np.zeros((images, conditions), dtype=np.float32)
    first = rng.choice(conditions, size=images, p=shares / shares.sum())
    labels[np.arange(images), first] = 1
    for _ in range(2):
        more = rng.random(images) < 0.4
        labels[more, rng.choice(conditions, size=more.sum(), p=shares / shares.sum())] = 1
    names = [f"{number:07d}.jpg" for number in range(images)]
    cases = np.repeat(np.arange(images), rng.integers(1, 4, size=images))[:images].astype(str)
    empty = dict.fromkeys(("description", "skin_tone", "sex", "age_group", "site", "source_split"), "")
    frame = pd.DataFrame({"image": names, "image_id": names, "case": cases, **empty, "primary": first})
    frame["source_row"] = np.arange(1, images + 1)
    return ImageTable(frame, labels, tuple(f"c{c:02d}" for c in range(conditions)), Path(), "benchmark")


def seconds(images: int, conditions: int = 66, seed: int = 0) -> float:
    """Processor seconds of one split."""
    table, start = long_tailed(images, conditions, seed), time.process_time()
    make_split(table, GroupStratifiedSplitter(), seed)
    return time.process_time() - start


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[5_000, 20_000, 200_000])
    parser.add_argument("--conditions", type=int, default=66)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| images | cases | seconds | divergence val, test (bits) | largest gap of a condition's share | size gap |")
    print("|---|---|---|---|---|---|")
    for images in arguments.images:
        table = long_tailed(images, arguments.conditions, arguments.seed)
        start = time.perf_counter()
        split = make_split(table, GroupStratifiedSplitter(), arguments.seed)
        seconds = time.perf_counter() - start
        report = split.report(table)
        listed = table.labels > 0
        shares = {"train": 0.7, "val": 0.15, "test": 0.15}
        gap = max(
            float(np.abs(listed[split.parts == name].sum(axis=0) / listed.sum(axis=0) - share).max())
            for name, share in shares.items()
        )
        size = max(abs(report.images[name] / images - share) for name, share in shares.items())
        print(
            f"| {images:,} | {len(set(table.cases)):,} | {seconds:.1f} | {report.divergence['val']:.2e}, "
            f"{report.divergence['test']:.2e} | {gap:.4f} | {size:.5f} |"
        )


if __name__ == "__main__":
    main()
