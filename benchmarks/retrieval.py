"""The retrieval test done once for all images, against the naive way: ten texts and ten copies of the image per sample.

    python benchmarks/retrieval.py
    python benchmarks/retrieval.py --images 500 --conditions 66

Both ways judge the same images, candidates and weights in one process, and must give the same ranks. The model is a
small SigLIP with random weights; the images and token ids are random too, since only the work is measured.
"""

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from timing import Ratio, compare
from torch import Tensor
from torch.nn.functional import normalize
from transformers import SiglipConfig, SiglipModel

from siglip_med.metrics import Predictions, candidate_retrieval, print_sample

SEEDS = (0,)
TEXT_LENGTH = 64


def tiny_model(seed: int) -> SiglipModel:
    """A SigLIP of random weights, with 16 tokens per image and 64 per text."""
    torch.manual_seed(seed)
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision, text = {"image_size": 64, "patch_size": 16}, {"vocab_size": 512, "max_position_embeddings": TEXT_LENGTH}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    model = SiglipModel(SiglipConfig(text_config=tower | text, vision_config=tower | vision)).eval()
    # double precision: random weights put prompts so close together that single precision can swap their ranks
    return model.double()


@torch.no_grad()
def naive_ranks(model: SiglipModel, images: Tensor, tokens: Tensor, candidates: np.ndarray) -> np.ndarray:
    """``[N]`` rank of the truth: one forward pass per image, with K copies of it and K texts."""
    ranks = np.empty(len(images), dtype=np.int64)
    for row, image in enumerate(images):
        chosen = tokens[candidates[row]]
        copies = image.expand(len(chosen), -1, -1, -1)
        scores = model(input_ids=chosen, pixel_values=copies).logits_per_image.diagonal().numpy()
        ranks[row] = 1 + (scores[1:] >= scores[0]).sum()
    return ranks


@torch.no_grad()
def score(model: SiglipModel, images: Tensor, tokens: Tensor, batch_size: int) -> tuple[np.ndarray, Tensor]:
    """``[N, C]`` logits and ``[C, E]`` text embeddings, with every image and every text encoded once."""
    text = normalize(model.get_text_features(input_ids=tokens).pooler_output, dim=-1)
    image = torch.cat([model.get_image_features(pixel_values=part).pooler_output for part in images.split(batch_size)])
    logits = normalize(image, dim=-1) @ text.T * model.logit_scale.exp() + model.logit_bias
    return logits.numpy(), text


def simulated(logits: np.ndarray, primary: np.ndarray, text: Tensor) -> Predictions:
    """Predictions with one label per image and nothing else known."""
    images, conditions = logits.shape
    columns = ("image_id", "case", "skin_tone", "sex", "age_group", "site")
    return Predictions(
        logits=logits,
        labels=np.eye(conditions, dtype=np.float32)[primary],
        primary=primary,
        frame=pd.DataFrame({"image": [f"image {row}" for row in range(images)]} | dict.fromkeys(columns, "")),
        conditions=tuple(f"condition {index}" for index in range(conditions)),
        codes=("",) * conditions,
        groups=("",) * conditions,
        dissimilarity=1.0 - np.eye(conditions),
        train_counts=np.zeros(conditions),
        text_embeddings=text.numpy(),
        image_embeddings=np.empty((0, text.shape[1])),
    )


def measure(images: int, conditions: int, blocks: int) -> Ratio:
    """Time of the naive way over that of encoding once: how many times as fast it is."""
    generator = torch.Generator().manual_seed(0)
    model, pixels = tiny_model(0), torch.randn(images, 3, 64, 64, generator=generator, dtype=torch.float64)
    tokens = torch.randint(2, 512, (conditions, TEXT_LENGTH), generator=generator)
    primary = torch.randint(conditions, (images,), generator=generator).numpy()

    def once() -> Any:
        logits, text = score(model, pixels, tokens, 32)
        return candidate_retrieval(simulated(logits, primary, text), seeds=SEEDS)

    candidates = once().candidates[0]
    return compare(lambda: naive_ranks(model, pixels, tokens, candidates), once, blocks)


def main() -> None:
    """Time both ways side by side and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--conditions", type=int, default=66)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    model = tiny_model(0)
    images = torch.randn(arguments.images, 3, 64, 64, generator=generator, dtype=torch.float64)
    tokens = torch.randint(2, 512, (arguments.conditions, TEXT_LENGTH), generator=generator)
    primary = torch.randint(arguments.conditions, (arguments.images,), generator=generator).numpy()

    seconds: dict[str, list[float]] = {"naive": [], "once": []}
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        logits, text = score(model, images, tokens, arguments.batch_size)
        predictions = simulated(logits, primary, text)
        result = candidate_retrieval(predictions, seeds=SEEDS)
        seconds["once"].append(time.perf_counter() - start)
        start = time.perf_counter()
        naive = naive_ranks(model, images, tokens, result.candidates[0])
        seconds["naive"].append(time.perf_counter() - start)

    console = Console()
    print_sample(result, predictions, console=console)
    same = int((naive == result.ranks[0]).sum())
    once, slow = (float(np.median(seconds[way])) for way in ("once", "naive"))
    console.print(f"images {arguments.images}, conditions {arguments.conditions}, threads {torch.get_num_threads()}")
    console.print(f"same rank: {same} of {arguments.images}")
    console.print(f"naive: {slow:.3f} s    once: {once:.3f} s    {slow / once:.1f} times as fast")
    if same != arguments.images or slow < 8 * once:
        raise SystemExit("the two ways must agree on every rank, and encoding once must be at least 8 times as fast")


if __name__ == "__main__":
    main()
