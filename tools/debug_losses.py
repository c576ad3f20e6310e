"""Prints the project's reference figures and every term on a fixed batch: ``python -m tools.debug_losses``."""

from dataclasses import dataclass

import torch
from torch import Tensor

from siglip_med.losses import (
    HardNegatives,
    IcdGeometric,
    LayeredLoss,
    MultiPositiveSigmoid,
    PairBatch,
    TreeSoftmax,
    Wasserstein,
    WeightedTerm,
)

PUBLISHED = {"sigmoid": 15.000000, "icd": 0.250669, "wasserstein": 0.001892}
"""The published debug table. The last two came from unseeded random embeddings: only their sum can be checked."""

PUBLISHED_COEFFICIENTS = {"alpha": 0.5, "beta": 0.1, "gamma": 0.0, "delta": 0.0}


@dataclass(frozen=True)
class Published:
    """A term whose value was published."""

    value: float

    def __call__(self, batch: PairBatch) -> Tensor:
        return batch.zero + self.value


def published_sigmoid() -> float:
    """15: four images and four texts with all logits 20, diagonal targets, pos_weight 3, mean over pairs."""
    same = torch.ones(4, 1, dtype=torch.float64)
    batch = PairBatch.from_targets(same, same, torch.tensor(0.0), torch.tensor(19.0), torch.eye(4))
    return MultiPositiveSigmoid(reduction="mean", pos_weight=3.0)(batch).item()


def published_total() -> float:
    """7.625524: the published terms, composed by `LayeredLoss` with alpha 0.5, beta 0.1, gamma 0."""
    same = torch.ones(1, 1, dtype=torch.float64)
    batch = PairBatch.from_targets(same, same, torch.tensor(0.0), torch.tensor(0.0), same)
    coefficient = {"sigmoid": "1 - alpha", "icd": "alpha", "wasserstein": "beta"}
    terms = {name: WeightedTerm(Published(value), coefficient[name]) for name, value in PUBLISHED.items()}
    return LayeredLoss(terms)(batch, PUBLISHED_COEFFICIENTS).total.item()


def example_batch(images: int = 16, embedding: int = 32, seed: int = 0) -> PairBatch:
    """A fixed random batch: 12 conditions in a three-level tree, one or two labels per image, every prompt.

    Args:
        images: B.
        embedding: E.
        seed: of embeddings and labels.
    """
    generator = torch.Generator().manual_seed(seed)
    condition = torch.arange(12)
    dissimilarity = torch.full((12, 12), 1.0)
    for level, width in ((0.6, 6), (0.4, 3), (0.0, 1)):
        dissimilarity[condition[:, None] // width == condition // width] = level
    labels = torch.zeros(images, 12)
    first, second = (torch.randint(12, (images,), generator=generator) for _ in range(2))
    labels[torch.arange(images), first] = 1.0
    labels[torch.arange(0, images, 2), second[::2]] = 1.0
    return PairBatch.build(
        torch.randn(images, embedding, generator=generator),
        torch.randn(12, embedding, generator=generator),
        torch.tensor(10.0).log(),
        torch.tensor(-10.0),
        labels,
        condition,
        dissimilarity,
        labels.sum(dim=0),
    )


def layered_terms() -> dict[str, WeightedTerm]:
    """The terms of ``loss=layered``."""
    return {
        "sigmoid": WeightedTerm(MultiPositiveSigmoid(), "1 - alpha"),
        "icd_tree": WeightedTerm(TreeSoftmax(adjustment=0.5), "alpha", scale=2.0),
        "icd_text": WeightedTerm(IcdGeometric("text"), "alpha", scale=20.0),
        "wasserstein": WeightedTerm(Wasserstein(), "beta", scale=0.1),
        "hardneg": WeightedTerm(HardNegatives(), "gamma"),
        "final": WeightedTerm(MultiPositiveSigmoid(), "delta"),
    }


def main() -> None:
    """Prints the tables."""
    print("published figures")
    print(f"  {'weighted sigmoid, 4x4 logits of 20, pos_weight 3':<60}{published_sigmoid():>12.6f}")
    composition = " + ".join(f"{value:.6f}" for value in PUBLISHED.values())
    print(f"  {f'0.5, 0.5, 0.1 times {composition}':<60}{published_total():>12.6f}")
    coefficients = {"alpha": 0.5, "beta": 0.1, "gamma": 0.5, "delta": 0.5}
    loss = LayeredLoss(layered_terms())
    output = loss(example_batch(), coefficients)
    print("\ntoday's terms on a fixed random batch, " + ", ".join(f"{k} {v:g}" for k, v in coefficients.items()))
    print(f"  {'term':<14}{'raw':>12}{'coefficient x scale':>22}{'weighted':>12}")
    for name, weight in loss.weights(coefficients).items():
        print(f"  {name:<14}{output.raw[name]:>12.6f}{weight:>22.6f}{output.weighted[name]:>12.6f}")
    print(f"  {'total':<14}{output.total:>46.6f}")


if __name__ == "__main__":
    main()
