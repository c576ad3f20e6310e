"""What each ready-made loss costs a step where there are many conditions: time and peak memory, forward and backward.

    python benchmarks/conditions.py                             # 256 images, 2,000 conditions, every one in the pool
    python benchmarks/conditions.py --images 4096 --repeats 1

Processor time of one thread; memory is what PyTorch allocates at most during the step, beside its inputs.
"""

import argparse
import time
from dataclasses import dataclass

import torch
from hydra import compose, initialize_config_dir
from torch.profiler import ProfilerActivity, profile

from siglip_med.core.config import config_dir, instantiate
from siglip_med.losses import LayeredLoss, LossOutput, PairBatch

COEFFICIENTS = {"alpha": 0.5, "beta": 0.1, "gamma": 0.5, "delta": 0.5}


@dataclass(frozen=True)
class Cost:
    """Milliseconds of the cheapest repeat, and peak megabytes."""

    milliseconds: float
    megabytes: float

    def __str__(self) -> str:
        return f"{self.milliseconds:7.0f} ms {self.megabytes:6.0f} MB"


def loss_names() -> list[str]:
    """Every ``loss=…`` there is."""
    return sorted(path.stem for path in (config_dir() / "loss").glob("*.yaml") if not path.stem.startswith("_"))


def inputs(images: int, conditions: int, dimension: int = 768) -> list[torch.Tensor]:
    """Arguments of `PairBatch.build`: about 2.3 conditions per image, a tree of four levels."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(images, conditions, generator=generator) < 1.3 / conditions).float()
    labels[torch.arange(images), torch.randint(conditions, (images,), generator=generator)] = 1.0
    condition = torch.arange(conditions)
    distances = torch.ones(conditions, conditions)
    for level, width in ((0.8, conditions // 3), (0.6, conditions // 8), (0.4, 3), (0.0, 1)):
        distances[condition[:, None] // width == condition // width] = level
    embeddings = [torch.randn(rows, dimension, generator=generator) for rows in (images, conditions)]
    leaves = [leaf.requires_grad_() for leaf in (*embeddings, torch.tensor(2.3), torch.tensor(-5.0))]
    return [*leaves, labels, condition, distances, labels.sum(dim=0)]


def measure(name: str, images: int = 256, conditions: int = 2000, repeats: int = 3) -> Cost:
    """The cost of ``loss=<name>``."""
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        loss: LayeredLoss = instantiate(compose("train", overrides=[f"loss={name}"]).loss)
    tensors = inputs(images, conditions)

    def step() -> LossOutput:
        output: LossOutput = loss(PairBatch.build(*tensors), COEFFICIENTS)
        output.total.backward()
        return output

    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return Cost(min(seconds) * 1e3, peak / 1e6)


def main() -> None:
    """Prints a line a loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--conditions", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("losses", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.losses or loss_names():
        print(f"{name:20} {measure(name, options.images, options.conditions, options.repeats)}")


if __name__ == "__main__":
    main()
