"""From which width on an adapter multiplied into its matrix costs more than PEFT's way: forward and backward.

python benchmarks/narrow_adapters.py
"""

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from rich.console import Console
from rich.table import Table
from timing import Ratio, compare
from torch import nn

from siglip_med.models.folded_lora import FoldedLinear

TOKENS = 4096
WIDTHS, RANKS = (128, 192, 256, 384, 768), (8, 16, 32)


class Always(FoldedLinear):
    """Folds at any width."""

    widest = 10**6


def perceptron(width: int, rank: int, kind: type[Linear]) -> nn.Module:
    """Two adapted layers, the hidden one twice as wide."""
    torch.manual_seed(0)
    config = LoraConfig(r=rank, lora_alpha=32, target_modules=["0", "2"])
    config._register_custom_module({nn.Linear: kind})
    layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
    return get_peft_model(layers, config)


def measure(width: int, rank: int, blocks: int = 5) -> Ratio:
    """Time of PEFT's way over that of the one product."""
    tokens = torch.randn(TOKENS, width, requires_grad=True)
    plain, folded = perceptron(width, rank, Linear), perceptron(width, rank, Always)
    return compare(lambda: plain(tokens).sum().backward(), lambda: folded(tokens).sum().backward(), blocks)


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    table = Table("width", *(f"rank {rank}" for rank in RANKS), title="time of PEFT's way over that of one product")
    for width in WIDTHS:
        table.add_row(str(width), *(str(measure(width, rank)) for rank in RANKS))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
