"""What each loss term costs beside a LoRA training step of siglip_base, forward and backward.

    python benchmarks/losses.py                                  # CPU, the batch of the README's table
    python benchmarks/losses.py --device cuda --images 256       # on a GPU the whole step is measured

The towers have the size of google/siglip-base-patch16-224 and random weights. On a CPU the step is measured on a few
images and texts and scaled linearly to the batch, which leaves its true cost a little higher or lower; on a GPU it is
measured whole, in bfloat16.
"""

import argparse
import time
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_dir
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import SiglipConfig, SiglipModel

from siglip_med.core.config import config_dir, instantiate
from siglip_med.losses import (
    EyeSigmoid,
    HardNegatives,
    IcdGeometric,
    InfoNCE,
    MultiPositiveSigmoid,
    PairBatch,
    SoftLabelSoftmax,
    Term,
    TreeSoftmax,
    Wasserstein,
)

CONDITIONS = 66
TARGETS = r".*encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"
EXTRA: dict[str, Term] = {
    "eye sigmoid": EyeSigmoid(),
    "InfoNCE": InfoNCE(),
    "soft-label softmax": SoftLabelSoftmax(),
    "ICD, images with prompts": IcdGeometric(),
    "ICD, images": IcdGeometric("image"),
    "Wasserstein, entropic": Wasserstein("entropic"),
    "Wasserstein, sliced": Wasserstein("sliced"),
}
LAYERS: dict[str, Term] = {
    "sigmoid (and final)": MultiPositiveSigmoid(),
    "tree softmax": TreeSoftmax(),
    "ICD, prompts": IcdGeometric("text"),
    "Wasserstein, exact": Wasserstein(),
    "hard negatives": HardNegatives(),
}


def seconds(function: Callable[[], object], device: str, repeats: int) -> float:
    """Shortest time of some calls, after one that is not counted.

    On a CPU it is the processor time of this process, which other work on the machine hardly lengthens.
    """
    clock = time.perf_counter if device == "cuda" else time.process_time
    times = []
    for _ in range(repeats + 1):
        start = clock()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times[1:])


def training_step(images: int, texts: int, device: str) -> float:
    """Seconds of one forward and backward pass of both towers with LoRA of rank 16."""
    measured = (images, texts) if device == "cuda" else (2, 4)
    model = SiglipModel(SiglipConfig(text_config={"bos_token_id": 1, "eos_token_id": 1}))
    towers = get_peft_model(model, LoraConfig(r=16, target_modules=TARGETS)).to(device)
    pixels = torch.randn(measured[0], 3, 224, 224, device=device)
    tokens = torch.randint(model.config.text_config.vocab_size, (measured[1], 64), device=device)

    def run(encode: Callable[[], Tensor]) -> Callable[[], None]:
        def call() -> None:
            with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
                encode().float().sum().backward()

        return call

    vision = seconds(run(lambda: towers.get_image_features(pixels).pooler_output), device, 3)
    text = seconds(run(lambda: towers.get_text_features(tokens).pooler_output), device, 3)
    return vision * images / measured[0] + text * texts / measured[1]


def batch_maker(images: int, texts: int, dimension: int, device: str) -> Callable[[], PairBatch]:
    """Makes a fresh batch each time, so that derived tensors are computed anew."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(images, CONDITIONS, generator=generator) < 2.3 / CONDITIONS).float()
    labels[torch.arange(images), torch.randint(CONDITIONS, (images,), generator=generator)] = 1.0
    code = torch.arange(CONDITIONS)
    dissimilarity = torch.ones(CONDITIONS, CONDITIONS)
    for level, width in ((0.8, 22), (0.6, 8), (0.4, 3), (0.0, 1)):
        dissimilarity[code[:, None] // width == code // width] = level
    embeddings = [torch.randn(rows, dimension, generator=generator) for rows in (images, texts)]
    # As after some training: an image lies near the prompts of its conditions.
    embeddings[0] += labels @ torch.randn(CONDITIONS, dimension, generator=generator)
    leaves = [x.to(device).requires_grad_() for x in (*embeddings, torch.tensor(2.3), torch.tensor(-5.0))]
    of_text = code.repeat(texts // CONDITIONS + 1)[:texts]
    tables = [x.to(device) for x in (labels, of_text, dissimilarity, labels.sum(dim=0))]
    return lambda: PairBatch.build(*leaves, *tables)


def parts() -> dict[str, Callable[[PairBatch], Tensor]]:
    """Every line of the table: its name, and what is computed."""
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        layered: nn.Module = instantiate(compose("train", overrides=["loss=layered"]).loss)
    coefficients = {"alpha": 0.5, "beta": 0.1, "gamma": 0.5, "delta": 0.5}
    return {
        "cosines and logits alone": lambda batch: batch.logits.sum(),
        **LAYERS,
        "all layers together": lambda batch: layered(batch, coefficients).total,
        **EXTRA,
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--texts", type=int, default=66)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    make = batch_maker(options.images, options.texts, options.dimension, options.device)
    step = training_step(options.images, options.texts, options.device)
    print(
        f"siglip_base LoRA step, {options.images} images and {options.texts} texts, {options.device}, "
        f"one CPU thread: {step * 1e3:,.0f} ms"
    )
    print(
        f"| {'term, forward and backward':<34} | {'ms':>8} | {'of the step':>11} |\n|{'-' * 36}|{'-' * 10}|{'-' * 13}|"
    )
    for name, loss in parts().items():
        cost = seconds(lambda loss=loss: loss(make()).backward(), options.device, 15)  # type: ignore[misc]
        print(f"| {name:<34} | {cost * 1e3:8.2f} | {cost / step:11.3%} |")


if __name__ == "__main__":
    main()
