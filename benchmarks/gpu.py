"""LoRA steps of siglip_base on a GPU: images per second, and the share of what a matrix product reaches there (MFU).

    python benchmarks/gpu.py
    python benchmarks/gpu.py --batches 32 256

The towers have the size of google/siglip-base-patch16-224 and random weights; the batch lies on the device, so neither
decoding nor copying is in the figures. Forward and backward in float16 under autocast (16-mixed), update in float32.
Operations are counted by PyTorch on one step; the product is one of two square float16 matrices, measured before.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from towers import siglip_tokenizer, write_siglip

from siglip_med.losses import LayeredLoss, PairBatch
from siglip_med.losses.layered import WeightedTerm
from siglip_med.losses.sigmoid import MultiPositiveSigmoid
from siglip_med.models import TwoTower, siglip

BATCHES = (32, 64, 128, 256, 512, 1024)
CONDITIONS = 66
AGAINST = "a matrix product of the same run"


@dataclass(frozen=True)
class Speed:
    """Of one step.

    Attributes:
        rate: images per second.
        share: operations per second over those of the matrix product.
    """

    rate: float
    share: float

    def __str__(self) -> str:
        return f"{self.rate:,.0f} images/s, MFU {self.share:.2f}"


def seconds(run: Callable[[], object], device: str, repeats: int) -> float:
    """Mean of some calls, after two that are not counted."""
    for counted in (False, True):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats if counted else 2):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def product_rate(device: str, side: int) -> float:
    """Operations a second of a product of two square matrices."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds(lambda: left @ right, device, 10)


def step_of(model: TwoTower, batch: int, device: str, compiled: bool) -> Callable[[], None]:
    """One optimizer step on a fixed batch."""
    generator = torch.Generator().manual_seed(0)
    side = model.image_spec.size
    pixels = torch.randn(batch, 3, side, side, generator=generator).to(device)
    tokens = {name: value.to(device) for name, value in model.tokenize([f"condition {i}" for i in range(66)]).items()}
    labels = torch.eye(CONDITIONS)[torch.randint(CONDITIONS, (batch,), generator=generator)].to(device)
    condition = torch.arange(CONDITIONS, device=device)
    loss = LayeredLoss({"sigmoid": WeightedTerm(MultiPositiveSigmoid())})
    images = torch.compile(model.encode_images) if compiled else model.encode_images
    texts = torch.compile(model.encode_texts) if compiled else model.encode_texts
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-4)
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16, enabled=device == "cuda"):
            image, text = images(pixels), texts(**tokens)
        pairs = PairBatch.build(image, text, model.logit_scale, model.logit_bias, labels, condition)
        scaler.scale(loss(pairs, {}).total).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def measure(model: TwoTower, batch: int, device: str, compiled: bool, peak: float, repeats: int = 10) -> Speed | str:
    """The speed of a step, or why there is none."""
    try:
        with FlopCounterMode(display=False) as counter:
            step_of(model, batch, device, compiled=False)()
        taken = seconds(step_of(model, batch, device, compiled), device, repeats)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "out of memory"
    return Speed(batch / taken, counter.get_total_flops() / taken / peak)


def rows(device: str, batches: tuple[int, ...] = BATCHES, layers: int = 12) -> Iterator[tuple[str, str, str]]:
    """The lines of the table: what, against what, figure."""
    if not torch.cuda.is_available() or device != "cuda":
        why = "--device cuda was not given" if torch.cuda.is_available() else "no CUDA device"
        yield f"siglip_base, LoRA, 16-mixed, batch {batches[0]} to {batches[-1]}", AGAINST, f"not measured: {why}"
        return
    yield from speeds(device, batches, layers, side=8192)


def speeds(device: str, batches: tuple[int, ...], layers: int, side: int) -> Iterator[tuple[str, str, str]]:
    """Every batch size, compiled and not."""
    with tempfile.TemporaryDirectory() as name:
        model = siglip(str(write_siglip(Path(name) / "base", layers, siglip_tokenizer()))).to(device)
    peak = product_rate(device, side)
    yield "the matrix product", "", f"{peak / 1e12:,.2f} TFLOP/s"
    for compiled in (False, True):
        for batch in batches:
            kind = "compiled" if compiled else "not compiled"
            figure = measure(model, batch, device, compiled, peak)
            yield f"siglip_base, LoRA, 16-mixed, batch {batch:,}, {kind}", AGAINST, str(figure)


def main() -> None:
    """Prints one line per batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    for row in rows("cuda", tuple(parser.parse_args().batches)):
        print(" | ".join(row))


if __name__ == "__main__":
    main()
