"""Everything that docs/performance.md compares, in one table: ``make bench``.

    python benchmarks                            # every part
    python benchmarks --only step start          # some
    python benchmarks --only gpu --device cuda   # siglip_base on a GPU
    python benchmarks --blocks 1                 # a look

Ratios are medians over blocks in which both variants take turns, with the lowest and the highest block. They are of
processor time on one thread, so that other work on the machine hardly matters. Each line is printed as it comes.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cached_heads
import cached_prefix
import conditions
import cv2
import gpu
import input_pipeline
import retrieval
import split_speed
import startup
import steps
import torch
from rich.console import Console
from rich.table import Table

from siglip_med.core.files import write_text
from siglip_med.launch.entry import _quiet_libraries

Row = tuple[str, str, str]
"""What, against what, and the figure."""


def kept_rows(blocks: int) -> Iterator[Row]:
    """Features and states that are computed once."""
    yield (
        "heads on cached features, 100 steps: time",
        "a plain loop with the same validations",
        str(cached_heads.measure(steps=100, images=1000, blocks=blocks)),
    )
    for use_siglip, shape in ((False, "DINOv2-S + MiniLM-L6"), (True, "SigLIP-base")):
        yield (
            f"adapters in the last third of {shape}, kept states: speed",
            "the same step from pixels",
            str(cached_prefix.measure(images=2, texts=4, use_siglip=use_siglip, blocks=blocks)),
        )
    with tempfile.TemporaryDirectory() as name:
        case = steps.LAST_THIRD
        yield (
            f"step: {case.what}, adapters in the last third",
            steps.AGAINST[case.peer],
            str(steps.measure(case, 1, Path(name))),
        )


def input_rows(blocks: int) -> Iterator[Row]:
    """From JPEG to tensor; best of the rounds."""
    rates = input_pipeline.measure(photographs=20, size=224, rounds=blocks)
    for way in ("ours, first epoch", "ours, cached", "ours, cached, augmented"):
        against = "library, augmented" if way.endswith("augmented") else "library"
        yield (
            f"input at 224 px, {way.removeprefix('ours, ')}: speed",
            f"Pillow and the processor{against.removeprefix('library')}",
            f"{rates[way] / rates[against]:.1f}",
        )


def evaluation_rows(blocks: int) -> Iterator[Row]:
    """The retrieval test."""
    yield (
        "retrieval test, 40 images, 20 conditions: speed",
        "ten texts and ten copies per sample",
        str(retrieval.measure(40, 20, blocks)),
    )


def memory_rows(blocks: int) -> Iterator[Row]:
    """Peak memory of the loss by images and by conditions."""
    for images, count in ((32, 66), (256, 66), (1024, 66), (32, 2000), (256, 2000), (1024, 2000)):
        cost = conditions.measure("layered", images, count, repeats=1)
        yield f"loss=layered, {images:,} images, {count:,} conditions: peak memory", "", f"{cost.megabytes:.0f} MB"


def loss_rows(blocks: int) -> Iterator[Row]:
    """Every ready-made loss where there are many conditions."""
    for name in conditions.loss_names():
        yield f"loss={name}, 256 images, 2,000 conditions", "", str(conditions.measure(name, repeats=max(3, blocks)))


def start_rows(blocks: int) -> Iterator[Row]:
    """From the command to its work."""
    yield "predict.py on one image: time", "the import of its libraries", str(startup.measure(blocks))
    yield "train.py up to its first step: time", "the import of its libraries", str(startup.first_step(blocks))
    yield "splitting 200,000 rows, 66 conditions", "", f"{split_speed.seconds(200_000):.0f} s"


PARTS: dict[str, Callable[[int], Iterator[Row]]] = {
    "step": steps.rows,
    "kept": kept_rows,
    "input": input_rows,
    "evaluation": evaluation_rows,
    "memory": memory_rows,
    "losses": loss_rows,
    "start": start_rows,
}


def measured(only: list[str], blocks: int, device: str) -> Iterator[tuple[str, str, str, str]]:
    """Every line with the figures of CPU and GPU."""
    for part in only:
        if part == "gpu":
            yield from ((what, against, "", figure) for what, against, figure in gpu.rows(device))
        else:
            yield from ((*row, "not measured") for row in PARTS[part](blocks))


def main() -> None:
    """Prints the table."""
    parts = [*PARTS, "gpu"]
    parser = argparse.ArgumentParser(
        prog="python benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART", help=", ".join(parts))
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of the part gpu")
    parser.add_argument("--output", type=Path, help="a file that gets the table as Markdown")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    _quiet_libraries()
    console, table = Console(width=180), Table("what", "against", "CPU, one thread", "GPU")
    lines = ["| what | against | CPU, one thread | GPU |", "|---|---|---|---|"]
    try:
        for row in measured(options.only, options.blocks, options.device):
            table.add_row(*row)
            lines.append(f"| {' | '.join(row)} |")
            console.print(" | ".join(row), markup=False, highlight=False, soft_wrap=True)
    finally:  # a part that fails takes no others' figures with it
        console.print(table)
        if options.output:
            write_text(options.output, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
