"""Which terms have the gradient of one large batch when its parts are accumulated: the table of docs/performance.md."""

from dataclasses import replace

import pytest
import torch

from siglip_med.losses import (
    EyeSigmoid,
    HardNegatives,
    IcdGeometric,
    InfoNCE,
    MultiPositiveSigmoid,
    SoftLabelSoftmax,
    TreeSoftmax,
    Wasserstein,
)
from tools.debug_losses import example_batch

EXACT = {
    "sigmoid, mean": MultiPositiveSigmoid(reduction="mean"),
    "sigmoid, sum over n": MultiPositiveSigmoid(reduction="sum_over_n"),
    "sigmoid, weights of conditions": MultiPositiveSigmoid(reduction="mean", pos_weight="condition"),
    "tree softmax": TreeSoftmax(),
    "soft labels": SoftLabelSoftmax(),
    "InfoNCE, images": InfoNCE(direction="image_to_text"),
    "ICD, texts": IcdGeometric("text"),
    "ICD, texts, correlation": IcdGeometric("text", fit="correlation"),
    "ICD, cross, unbalanced": IcdGeometric("cross", balance="none"),
    "hard negatives": HardNegatives(),
}
OTHER = {
    "sigmoid, balanced": MultiPositiveSigmoid(),
    "sigmoid, weight of the batch": MultiPositiveSigmoid(reduction="mean", pos_weight="batch"),
    "eye sigmoid": EyeSigmoid(),
    "InfoNCE": InfoNCE(),
    "ICD, cross": IcdGeometric("cross"),
    "ICD, images": IcdGeometric("image"),
    "Wasserstein": Wasserstein(),
}
"""Images are compared with each other, or what a part holds decides how much it weighs."""


def part(rows):
    batch = example_batch(images=16)
    doubled = {name: getattr(batch, name).double() for name in ("image", "text", "logit_scale", "logit_bias")}
    doubled["logit_bias"] = torch.zeros_like(doubled["logit_bias"])  # at -10 hardly a negative has a gradient
    leaves = {name: value.detach().requires_grad_() for name, value in doubled.items()}
    cut = replace(
        batch,
        **{**leaves, "image": leaves["image"][rows]},
        labels=batch.labels[rows].double(),
        dissimilarity=batch.dissimilarity.double(),
        condition_counts=batch.condition_counts.double(),
    )
    return cut, list(leaves.values())


def gradient(term, *parts):
    """Of the mean of a term over parts of the batch, on every embedding, scale and bias."""
    total = 0
    for rows in parts:
        batch, leaves = part(rows)
        found = torch.autograd.grad(term(batch), leaves, allow_unused=True)
        flat = [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]
        total = total + torch.cat([g.flatten() for g in flat]) / len(parts)
    return total


def difference(term):
    """Relative size of what accumulating two halves gets wrong; one of them has more labels an image."""
    whole = gradient(term, slice(0, 16))
    halves = gradient(term, slice(0, 16, 2), slice(1, 16, 2))
    return ((halves - whole).norm() / whole.norm()).item()


@pytest.mark.parametrize("name", EXACT)
def test_accumulated_halves_are_the_whole_batch(name):
    assert difference(EXACT[name]) < 1e-12


@pytest.mark.parametrize("name", OTHER)
def test_accumulated_halves_are_another_loss(name):
    assert difference(OTHER[name]) > 1e-3
