"""What an adapter step costs from the kept states of frozen first blocks, beside the same step from pixels.

    python benchmarks/cached_prefix.py                 # a dual encoder in the shapes of DINOv2-S and MiniLM-L6
    python benchmarks/cached_prefix.py --siglip        # SigLIP-base, 12 blocks per tower

Adapters sit in the last third of both towers in either case, so the backward pass is the same; the states save the
forward pass of the first two thirds. Forward, backward and optimizer; weights are random.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from timing import Ratio, compare
from torch import Tensor
from towers import write_dual_encoder, write_siglip

from siglip_med.models import Lora, TwoTower, dual_encoder, siglip


def build(folder: Path, use_siglip: bool) -> TwoTower:
    """A model with adapters in the last third of its towers."""
    if use_siglip:
        return siglip(str(write_siglip(folder)), adaptation=Lora(first_block=8, dropout=0.0))
    paths = write_dual_encoder(folder, image_size=224, vision_layers=12, text_layers=6)
    adaptation = Lora(first_block={"vision": 8, "text": 4}, dropout=0.0)
    return dual_encoder(str(paths["vision"]), str(paths["text"]), image_size=224, adaptation=adaptation)


def step(model: TwoTower, encode: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], None]:
    """One optimizer step on the embeddings that ``encode`` gives."""
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-4)

    def run() -> None:
        optimizer.zero_grad()
        torch.nn.functional.softplus(model.logits(*encode())).mean().backward()
        optimizer.step()

    return run


def measure(images: int = 8, texts: int = 16, use_siglip: bool = False, blocks: int = 5) -> Ratio:
    """Time from pixels and tokens over the time from states: how many times the images per second."""
    with tempfile.TemporaryDirectory() as name:
        model = build(Path(name), use_siglip).train()
    pixels = torch.randn(images, 3, model.image_spec.size, model.image_spec.size)
    tokens = model.tokenize([f"a photograph of condition {number}" for number in range(texts)])
    image_states, text_states = model.image_states(pixels), model.text_states(**tokens)
    whole = step(model, lambda: (model.encode_images(pixels), model.encode_texts(**tokens)))
    resumed = step(model, lambda: (model.encode_images(image_states), model.encode_texts(**tokens, states=text_states)))
    return compare(whole, resumed, blocks)


def main() -> None:
    """Prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--siglip", action="store_true", dest="use_siglip")
    parser.add_argument("--blocks", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"adapters in the last third, images/s from states over images/s from pixels: {measure(**vars(options))}")


if __name__ == "__main__":
    main()
