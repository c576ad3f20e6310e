"""Labels above several conditions: every loss against plain loops with masks, over ragged batches."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from siglip_med.losses import (
    EyeSigmoid,
    HardNegatives,
    IcdGeometric,
    InfoNCE,
    MultiPositiveSigmoid,
    PairBatch,
    SoftLabelSoftmax,
    TreeSoftmax,
    Wasserstein,
)

from .cases import CASES, CONDITIONS
from .reference import Case

MEMBERS = [{0, 1, 2}, {4, 5}, {7, 8, 9, 10}, {3}]
BROAD = {  # broad labels by image, with weights; images beyond have none
    "alone": [{1: 1.0}],
    "beside its own condition": [{0: 1.0}, {1: 1.0, 2: 0.5}],
    "several": [{0: 0.4, 2: 0.6}, {}, {3: 1.0}, {1: 1.0}],
    "all": [{0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}] * 5,
}


class Naive:
    """What is known of each pair, as sets."""

    def __init__(self, case: Case, broad: list[dict[int, float]]) -> None:
        self.case, images = case, len(case.image)
        self.broad = [*broad, *[{}] * images][:images]
        self.own = [{c for c in range(CONDITIONS) if row[c] > 0} for row in case.labels]
        self.open = [
            {k: w for k, w in of.items() if not MEMBERS[k] & own} for of, own in zip(self.broad, self.own, strict=True)
        ]
        self.conditions = case.text_condition.tolist()
        self.z, self.cos, self.p = case.logits(), case.cosine(), case.positives()

    def undecided(self, i: int, j: int) -> bool:
        c = self.conditions[j]
        return c not in self.own[i] and any(c in MEMBERS[k] for k in self.broad[i])

    def possible(self, i: int) -> set[int]:
        return self.own[i] | {c for k in self.open[i] for c in MEMBERS[k]}

    def s(self, i: int, condition: int) -> float:
        return min((float(self.case.dissimilarity[c][condition]) for c in self.possible(i)), default=1.0)

    def batch(self) -> PairBatch:
        labels = torch.zeros(len(self.broad), len(MEMBERS), dtype=torch.float64)
        members = torch.zeros(len(MEMBERS), CONDITIONS, dtype=torch.bool)
        for i, of in enumerate(self.broad):
            for k, weight in of.items():
                labels[i, k] = weight
        for k, below in enumerate(MEMBERS):
            members[k, list(below)] = True
        return replace(self.case.batch(), broad_labels=labels, broad_members=members)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [(i, j) for i in range(len(self.z)) for j in range(len(self.conditions))]


def softplus(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def balanced(entries: list[tuple[float, float]]) -> float:
    """Of (target, logit) pairs."""
    positive, negative = sum(p for p, _ in entries), sum(1 - p for p, _ in entries)
    first = sum(p * softplus(-z) for p, z in entries) / (positive or 1)
    return first + sum((1 - p) * softplus(z) for p, z in entries) / (negative or 1)


def sigmoid(n: Naive) -> float:
    return balanced([(n.p[i, j], n.z[i, j]) for i, j in n.pairs if not n.undecided(i, j)])


def sigmoid_mean(n: Naive) -> float:
    entries = [(n.p[i, j], n.z[i, j]) for i, j in n.pairs if not n.undecided(i, j)]
    return sum(p * softplus(-z) + (1 - p) * softplus(z) for p, z in entries) / max(len(entries), 1)


def eye(n: Naive) -> float:
    paired = [i for i in range(len(n.z)) if n.p[i].any()]
    text = {i: int(np.argmax(n.p[i])) for i in paired}
    entries = [(float(i == k), n.z[i, text[k]]) for i in paired for k in paired if not n.undecided(i, text[k])]
    return balanced(entries) if paired else 0.0


def info_nce(n: Naive) -> float:
    def over(entries: list[list[tuple[float, float]]]) -> float:
        rows = [[(p, z) for p, z in row] for row in entries if sum(p for p, _ in row) > 0]
        losses = []
        for row in rows:
            total, mass = math.log(sum(math.exp(z) for _, z in row)), sum(p for p, _ in row)
            losses.append(-sum(p / mass * (z - total) for p, z in row))
        return sum(losses) / max(len(losses), 1)

    images, texts = range(len(n.z)), range(len(n.conditions))
    of_images = [[(n.p[i, j], n.z[i, j]) for j in texts if not n.undecided(i, j)] for i in images]
    of_texts = [[(n.p[i, j], n.z[i, j]) for i in images if not n.undecided(i, j)] for j in texts]
    return (over(of_images) + over(of_texts)) / 2


def soft_labels(n: Naive, temperature: float = 0.1) -> float:
    losses = []
    for i, own in enumerate(n.own):
        left = [j for j in range(len(n.conditions)) if not n.undecided(i, j)]
        if not own or not left:
            continue
        weight = [math.exp(-n.s(i, n.conditions[j]) / temperature) for j in left]
        total = math.log(sum(math.exp(n.z[i, j]) for j in left))
        losses.append(-sum(w / sum(weight) * (n.z[i, j] - total) for w, j in zip(weight, left, strict=True)))
    return sum(losses) / max(len(losses), 1)


def tree_softmax(n: Naive, weights: tuple[float, ...] = (0.6, 0.1, 0.1, 0.1, 0.1)) -> float:
    losses = []
    for i in range(len(n.z)):
        inside = [j for j, c in enumerate(n.conditions) if not n.undecided(i, j) or c in n.possible(i)]
        groups = [({n.conditions[j]}, n.p[i, j]) for j in range(len(n.conditions)) if n.p[i, j] > 0]
        groups += [(MEMBERS[k], w) for k, w in n.open[i].items() if MEMBERS[k] & set(n.conditions)]
        if not groups:
            continue
        total, loss = sum(math.exp(n.z[i, j]) for j in inside), 0.0
        for group, share in groups:
            for level, weight in enumerate(weights):
                node = [
                    j
                    for j in inside
                    if min(n.case.dissimilarity[c][n.conditions[j]] for c in group) <= level / len(weights) + 1e-6
                ]
                mass = sum(math.exp(n.z[i, j]) for j in node) / total
                loss -= share / sum(w for _, w in groups) * weight * math.log(mass)
        losses.append(loss)
    return sum(losses) / max(len(losses), 1)


def hard_negatives(n: Naive, margin: float = 0.2, slack: float = 0.1, k: int = 5, within: float = 0.4) -> float:
    chosen: list[float] = []
    for i in range(len(n.z)):
        listed = [j for j in range(len(n.conditions)) if n.p[i, j] > 0]
        if not listed:
            continue
        near = sum(n.cos[i, j] for j in listed) / len(listed)
        others = [
            margin + n.cos[i, j] - near + slack * n.s(i, n.conditions[j])
            for j in range(len(n.conditions))
            if j not in listed and not n.undecided(i, j) and n.s(i, n.conditions[j]) > within + 1e-6
        ]
        chosen += sorted(others, reverse=True)[:k]
    return sum(max(value, 0.0) for value in chosen) / max(len(chosen), 1)


def every_negative(n: Naive) -> float:
    return hard_negatives(n, within=-1.0)


def icd(n: Naive) -> float:
    entries = [
        (1 - n.cos[i, j], n.s(i, n.conditions[j])) for i, j in n.pairs if n.possible(i) and not n.undecided(i, j)
    ]
    return by_level(entries)


def icd_images(n: Naive) -> float:
    labeled, entries = [i for i, own in enumerate(n.own) if own], []
    for i in labeled:
        for k in labeled:
            if i != k:
                d = min(n.s(k, c) for c in n.possible(i))
                entries.append((1 - n.case.cos(n.case.image[i], n.case.image[k]), d))
    return by_level(entries)


def by_level(entries: list[tuple[float, float]]) -> float:
    levels: dict[int, list[float]] = {}
    for distance, s in entries:
        levels.setdefault(round(s * 10), []).append((distance - s) ** 2)
    return sum(sum(errors) / len(errors) for errors in levels.values()) / max(len(levels), 1)


TERMS: list[tuple[Callable[[PairBatch], torch.Tensor], Callable[[Naive], float]]] = [
    (MultiPositiveSigmoid(), sigmoid),
    (MultiPositiveSigmoid(reduction="mean"), sigmoid_mean),
    (EyeSigmoid(), eye),
    (InfoNCE(), info_nce),
    (SoftLabelSoftmax(), soft_labels),
    (TreeSoftmax(), tree_softmax),
    (HardNegatives(), hard_negatives),
    (HardNegatives(exclude_within=None), every_negative),
    (IcdGeometric(), icd),
    (IcdGeometric(pairs="image"), icd_images),
]


@pytest.mark.parametrize("broad", BROAD, ids=str)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("term", "reference"), TERMS, ids=lambda value: getattr(value, "__name__", ""))
def test_each_loss_equals_plain_loops_with_masks(
    term: Callable[[PairBatch], torch.Tensor], reference: Callable[[Naive], float], name: str, broad: str
) -> None:
    naive = Naive(CASES[name], BROAD[broad])
    assert term(naive.batch()).item() == pytest.approx(reference(naive), abs=1e-6)


@pytest.mark.parametrize("term", [term for term, _ in TERMS] + [Wasserstein(label_weight=0.5), IcdGeometric("text")])
def test_a_batch_in_which_no_image_has_a_broad_label_costs_the_same(
    term: Callable[[PairBatch], torch.Tensor],
) -> None:
    for case in CASES.values():
        assert term(Naive(case, []).batch()).item() == pytest.approx(term(case.batch()).item(), abs=1e-12)


def test_a_broad_label_alone_teaches_the_tree_softmax_and_no_other_condition() -> None:
    # one image of "0, 1 or 2" against the texts 0, 1 and 8: mass moves from 8 to the two, in equal proportion
    image = torch.eye(4, dtype=torch.float64)[:1].requires_grad_()
    case = replace(CASES["square"], labels=np.zeros((1, CONDITIONS)), text_condition=np.array([0, 1, 8]))
    naive = Naive(replace(case, image=image.detach().numpy()), [{0: 1.0}])
    batch = replace(naive.batch(), image=image, logit_scale=torch.zeros((), dtype=torch.float64))
    batch = replace(batch, text=torch.eye(4, dtype=torch.float64)[:3], logit_bias=torch.zeros((), dtype=torch.float64))
    (gradient,) = torch.autograd.grad(TreeSoftmax((1.0,))(batch), image)
    p = torch.softmax(image.detach()[0, :3], 0)
    inside = p[:2] / p[:2].sum()
    assert torch.allclose(gradient[0, :3], torch.stack([p[0] - inside[0], p[1] - inside[1], p[2]]))
