"""Everything that docs/performance.md compares, in one table: ``make bench``.

    python benchmarks/table.py             # about a quarter of an hour on two quiet cores
    python benchmarks/table.py --blocks 1  # a look

Ratios are medians over blocks in which both variants take turns, with the lowest and the highest block. They are of
processor time on one thread, so that other work on the machine hardly matters.
"""

import argparse

import cached_heads
import cached_prefix
import conditions
import startup
import torch
from rich.console import Console
from rich.table import Table

from siglip_med.commands.entry import _quiet_libraries


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=5)
    blocks = parser.parse_args().blocks
    torch.set_num_threads(1)
    _quiet_libraries()
    table = Table("what", "against", "figure", title="CPU, one thread; GPU: not measured")

    def row(what: str, against: str, figure: object) -> None:
        table.add_row(what, against, str(figure))

    row(
        "heads on cached features, whole fit: time",
        "a plain loop with the same validations",
        cached_heads.measure(blocks=blocks),
    )
    for use_siglip, shape in ((False, "DINOv2-S + MiniLM-L6"), (True, "SigLIP-base")):
        row(
            f"adapters in the last third of {shape}, kept states: images/s",
            "the same step from pixels",
            cached_prefix.measure(images=4, texts=8, use_siglip=use_siglip, blocks=blocks),
        )
    row("predict.py on one image: time", "the import of its libraries", startup.measure(blocks))
    for name in conditions.loss_names():
        row(f"loss={name}, 256 images, 2,000 conditions", "", conditions.measure(name))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
