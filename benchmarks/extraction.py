"""Embedding photographs with a frozen DINOv2-S at 224 pixels: our forward pass beside other ways, and batch sizes.

    python benchmarks/extraction.py [--images 64] [--blocks 3] [--threads 1]

Weights and images are random, the widths are DINOv2-S's: what a pass costs does not depend on them. Ratios of processor
time, in turn in one process; with several threads of wall time.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from timing import compare_costs, cost
from torch import Tensor
from towers import write_dual_encoder
from transformers import AutoModel

from siglip_med.models import Frozen, dual_encoder

BATCH = 16
"""Images at once, of all ways that say no other number."""


def ways(folder: Path, threads: int) -> dict[str, Callable[[Tensor], object]]:
    """Name -> forward pass of ``[B, 3, 224, 224]``."""
    paths = {name: str(path) for name, path in write_dual_encoder(folder, 224, 12, 1).items()}
    ours = dual_encoder(paths["vision"], paths["text"], image_size=224, adaptation=Frozen()).eval()
    theirs = AutoModel.from_pretrained(paths["vision"]).eval()
    file = folder / "vision.onnx"
    torch.onnx.export(theirs, (torch.zeros(2, 3, 224, 224),), file, dynamo=False, input_names=["x"],
                      dynamic_axes={"x": {0: "n"}})  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options)
    last = copy.deepcopy(theirs).to(memory_format=torch.channels_last)
    return {
        "ours": ours.pooled_features,
        "transformers' AutoModel": lambda x: theirs(x).pooler_output,
        "onnxruntime": lambda x: session.run(None, {"x": x.numpy()}),
        "ours, bfloat16": lambda x: _bfloat16(ours.pooled_features, x),
        "transformers', channels_last": lambda x: last(x.to(memory_format=torch.channels_last)).pooler_output,
    }


def _bfloat16(encode: Callable[[Tensor], object], images: Tensor) -> object:
    with torch.autocast("cpu", torch.bfloat16):
        return encode(images)


def in_batches(encode: Callable[[Tensor], object], images: Tensor, size: int) -> Callable[[], None]:
    """All images, so many at once."""

    def run() -> None:
        with torch.inference_mode():
            for part in images.split(size):
                encode(part)

    return run


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(options.images, 3, 224, 224)).astype(np.float32))
    measure = cost if options.threads == 1 else _wall
    table = Table("forward passes of DINOv2-S, 224 pixels", "time, of ours at its batch")
    with tempfile.TemporaryDirectory() as folder:
        passes = ways(Path(folder), options.threads)
        ours = in_batches(passes["ours"], images, BATCH)
        rows = [(name, BATCH) for name in passes if name != "ours"]
        rows += [("ours", 1), ("ours", 4), ("ours", 64), ("ours", 128), ("ours, bfloat16", 128)]
        for name, size in rows:
            other = in_batches(passes[name], images, size)
            found = compare_costs(lambda run=other: measure(run), lambda: measure(ours), options.blocks)  # type: ignore[misc]
            table.add_row(f"{name}, {size} at once", str(found))
            print(name, size, found, flush=True)
        print(f"ours: {options.images / measure(ours):.1f} images/s, {options.threads} threads")
    Console().print(table)


def _wall(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
