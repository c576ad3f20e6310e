"""What commands cost beside the import of their libraries: processor time of whole processes, in turn.

python benchmarks/startup.py
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from timing import Ratio, summarize

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = (
    "torch, transformers.models.siglip.modeling_siglip, transformers.models.siglip.image_processing_siglip, "
    "transformers, peft, pandas, hydra, pydantic, rich.table, PIL.Image"
)

TRAINING = f"{LIBRARIES}, lightning.pytorch, albumentations, cv2, torchmetrics, sklearn, scipy, ot"
TO_FIRST_STEP = """
import os, sys
import siglip_med.launch
from siglip_med.training.module import FineTuneModule
FineTuneModule.on_train_batch_end = lambda *_: os._exit(0)
siglip_med.launch.train()
"""


def seconds(command: list[str]) -> float:
    """User and system time of a process and its children."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{command} ended with status {status}")
    return usage.ru_utime + usage.ru_stime


def measure(blocks: int = 3) -> Ratio:
    """``predict.py`` on one image against the import of what it uses."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cv2.imwrite(str(folder / "image.png"), np.zeros((64, 64, 3), dtype=np.uint8))
        short = ["trainer.max_steps=2", "data.source.n_images=200", "data.num_workers=0", "data.batch_size=16"]
        paths = [f"paths.output_dir={folder}/run", f"paths.cache_dir={folder}/cache", "evaluation.bootstrap=10"]
        seconds([sys.executable, "train.py", *short, *paths])
        checkpoint = folder / "run" / "checkpoints" / "best.ckpt"
        where = [f"checkpoint={checkpoint}", f"images={folder}/image.png", f"hydra.run.dir={folder}/predictions"]
        ours, theirs = [sys.executable, "predict.py", *where], [sys.executable, "-c", f"import {LIBRARIES}"]
        return summarize([seconds(ours) / seconds(theirs) for _ in range(blocks + 1)][1:])


def first_step(blocks: int = 3) -> Ratio:
    """``train.py`` on 200 drawings until its first step is done, against the import of what it uses.

    Drawings and decoded pixels are there already; the zero-shot scores and the probe that come first are counted.
    """
    with tempfile.TemporaryDirectory() as name:
        words = ["data.source.n_images=200", "data.num_workers=0", "data.batch_size=16"]
        theirs = [sys.executable, "-c", f"import {TRAINING}"]

        def ours(block: int) -> list[str]:
            run = f"{name}/run{block}"  # a folder is one run's alone
            places = [f"paths.output_dir={run}", f"paths.cache_dir={name}/cache", f"hydra.run.dir={run}"]
            return [sys.executable, "-c", TO_FIRST_STEP, *words, *places]

        return summarize([seconds(ours(block)) / seconds(theirs) for block in range(blocks + 1)][1:])


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=3)
    blocks = parser.parse_args().blocks
    print(f"predict.py on one image, time against the import of its libraries: {measure(blocks)}")
    print(f"train.py up to its first step, time against the import of its libraries: {first_step(blocks)}")


if __name__ == "__main__":
    main()
