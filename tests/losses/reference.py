"""Every term once more, as plain loops over NumPy float64 numbers: slow, obvious, and independent of the package."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from siglip_med.losses import PairBatch


@dataclass
class Case:
    """Inputs of a batch as float64 arrays, before normalization."""

    image: np.ndarray
    text: np.ndarray
    labels: np.ndarray
    text_condition: np.ndarray
    dissimilarity: np.ndarray
    counts: np.ndarray
    logit_scale: float = math.log(7.0)
    logit_bias: float = -2.0

    def batch(self, image: torch.Tensor | None = None, text: torch.Tensor | None = None) -> PairBatch:
        return PairBatch.build(
            torch.as_tensor(self.image) if image is None else image,
            torch.as_tensor(self.text) if text is None else text,
            torch.tensor(self.logit_scale, dtype=torch.float64),
            torch.tensor(self.logit_bias, dtype=torch.float64),
            torch.as_tensor(self.labels),
            torch.as_tensor(self.text_condition),
            torch.as_tensor(self.dissimilarity),
            torch.as_tensor(self.counts),
        )

    @property
    def size(self) -> tuple[int, int]:
        return len(self.image), len(self.text)

    def cos(self, a: np.ndarray, b: np.ndarray) -> float:
        return float(sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b)))

    def cosine(self) -> np.ndarray:
        return np.array([[self.cos(u, v) for v in self.text] for u in self.image])

    def logits(self) -> np.ndarray:
        return math.exp(self.logit_scale) * self.cosine() + self.logit_bias

    def adjusted(self, tau: float) -> np.ndarray:
        prior = [math.log(max(count, 1.0)) for count in self.counts]
        return np.array(
            [
                [z + tau * (prior[c] - sum(prior) / len(prior)) for z, c in zip(row, self.text_condition, strict=True)]
                for row in self.logits()
            ]
        )

    def positives(self) -> np.ndarray:
        return np.array([[row[c] for c in self.text_condition] for row in self.labels])

    def listed(self, i: int) -> list[int]:
        return [k for k in range(self.labels.shape[1]) if self.labels[i, k] > 0]

    def nearest(self) -> np.ndarray:
        """S [B, T]."""
        return np.array(
            [
                [min((self.dissimilarity[k, c] for k in self.listed(i)), default=1.0) for c in self.text_condition]
                for i in range(len(self.image))
            ]
        )


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(
    case: Case,
    reduction: str = "balanced",
    pos_weight: object = 1.0,
    targets: str = "soft",
    adjustment: float = 0.0,
) -> float:
    z, p = case.adjusted(adjustment), case.positives()
    images, texts = case.size
    counts = case.counts[case.counts > 0]
    positive_sum = negative_sum = positive_mass = negative_mass = 0.0
    for i in range(images):
        for j in range(texts):
            target = float(p[i, j] > 0) if targets == "hard" else p[i, j]
            if pos_weight == "batch":
                weight = max(images - 1, 1)
            elif pos_weight == "condition":
                count = case.counts[case.text_condition[j]]
                weight = min(max(math.sqrt(np.median(counts) / count), 0.5), 5.0) if count else 5.0
            else:
                weight = float(pos_weight)
            positive_sum += weight * target * softplus(-z[i, j])
            negative_sum += (1 - target) * softplus(z[i, j])
            positive_mass += target
            negative_mass += 1 - target
    if reduction == "balanced":
        return (positive_sum / positive_mass if positive_mass else 0.0) + (
            negative_sum / negative_mass if negative_mass else 0.0
        )
    return (positive_sum + negative_sum) / (images * texts if reduction == "mean" else images)


def eye(case: Case, reduction: str = "balanced", pos_weight: object = 1.0) -> float:
    z, p = case.logits(), case.positives()
    rows = [i for i in range(len(p)) if max(p[i]) > 0]
    own = {i: list(p[i]).index(max(p[i])) for i in rows}
    weight = max(len(rows) - 1, 1) if pos_weight == "batch" else float(pos_weight)
    positive = [weight * softplus(-z[i, own[i]]) for i in rows]
    negative = [softplus(z[i, own[k]]) for i in rows for k in rows if k != i]
    if not rows:
        return 0.0
    if reduction == "balanced":
        return sum(positive) / len(positive) + (sum(negative) / len(negative) if negative else 0.0)
    return (sum(positive) + sum(negative)) / (len(rows) ** 2 if reduction == "mean" else len(rows))


def icd(case: Case, pairs: str = "cross", fit: str = "squared", balance: str = "level") -> float:
    images, texts = case.size
    rows: list[tuple[float, float]] = []
    if pairs == "cross":
        cosine, nearest = case.cosine(), case.nearest()
        rows = [(1 - cosine[i, j], nearest[i, j]) for i in range(images) for j in range(texts) if case.listed(i)]
    elif pairs == "text":
        for a in range(texts):
            for b in range(texts):
                if a != b:
                    d = case.dissimilarity[case.text_condition[a], case.text_condition[b]]
                    rows.append((1 - case.cos(case.text[a], case.text[b]), d))
    else:
        for a in range(images):
            for b in range(images):
                if a != b and case.listed(a) and case.listed(b):
                    d = min(case.dissimilarity[k, m] for k in case.listed(a) for m in case.listed(b))
                    rows.append((1 - case.cos(case.image[a], case.image[b]), d))
    if not rows:
        return 0.0
    level = [round(10 * s) for _, s in rows]
    share = [1 / (len(set(level)) * level.count(x)) if balance == "level" else 1 / len(rows) for x in level]
    if fit == "squared":
        return sum(w * (d - s) ** 2 for w, (d, s) in zip(share, rows, strict=True))
    distances, targets = np.array(rows).T
    covariance = np.cov(distances, targets, aweights=share, ddof=0)
    if covariance[0, 0] * covariance[1, 1] < 1e-20:
        return 1.0
    return 1 - covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])


def hard_negatives(
    case: Case,
    margin: float = 0.2,
    slack: float = 0.1,
    k: int = 5,
    exclude_within: float | None = 0.4,
    exclude_colisted: bool = False,
    semi_hard: bool = False,
) -> float:
    cosine, p, nearest = case.cosine(), case.positives(), case.nearest()
    images, texts = case.size
    chosen: list[float] = []
    for i in range(images):
        positives = [cosine[i, j] for j in range(texts) if p[i, j] > 0]
        if not positives:
            continue
        mean = sum(positives) / len(positives)
        hinges = []
        for j in range(texts):
            c = case.text_condition[j]
            together = any(
                case.labels[n, c] > 0 and any(case.labels[n, own] > 0 for own in case.listed(i)) for n in range(images)
            )
            if p[i, j] > 0 or (exclude_within is not None and nearest[i, j] <= exclude_within + 1e-6):
                continue
            if (exclude_colisted and together) or (semi_hard and cosine[i, j] >= mean):
                continue
            hinges.append(margin + slack * nearest[i, j] + cosine[i, j] - mean)
        chosen += [max(h, 0.0) for h in sorted(hinges, reverse=True)[:k]]
    return sum(chosen) / len(chosen) if chosen else 0.0


def log_softmax(row: np.ndarray) -> np.ndarray:
    top = max(row)
    return row - top - math.log(sum(math.exp(x - top) for x in row))


def info_nce(case: Case, direction: str = "both", adjustment: float = 0.0) -> float:
    def one_way(z: np.ndarray, p: np.ndarray) -> float:
        rows = [-sum(p[i] / p[i].sum() * log_softmax(z[i])) for i in range(len(p)) if p[i].sum() > 0]
        return sum(rows) / len(rows) if rows else 0.0

    z, p = case.logits(), case.positives()
    ways = {"image_to_text": one_way(case.adjusted(adjustment), p), "text_to_image": one_way(z.T, p.T)}
    return sum(ways.values()) / 2 if direction == "both" else ways[direction]


def soft_label_softmax(case: Case, temperature: float = 0.1, adjustment: float = 0.0) -> float:
    z, nearest = case.adjusted(adjustment), case.nearest()
    rows = []
    for i in range(len(z)):
        if case.listed(i):
            target = np.exp(log_softmax(-nearest[i] / temperature))
            rows.append(-sum(target * log_softmax(z[i])))
    return sum(rows) / len(rows) if rows else 0.0


def tree_softmax(case: Case, weights: tuple[float, ...] = (0.6, 0.1, 0.1, 0.1, 0.1), adjustment: float = 0.0) -> float:
    z, p = case.adjusted(adjustment), case.positives()
    rows = []
    for i in range(len(z)):
        if not p[i].sum():
            continue
        probability = [math.exp(x) for x in log_softmax(z[i])]
        row = 0.0
        for j, condition in enumerate(case.text_condition):
            for level, weight in enumerate(weights):
                near = [
                    k
                    for k, other in enumerate(case.text_condition)
                    if case.dissimilarity[condition, other] <= level / len(weights) + 1e-6
                ]
                row -= p[i, j] / p[i].sum() * weight * math.log(sum(probability[k] for k in near))
        rows.append(row)
    return sum(rows) / len(rows) if rows else 0.0


def marginals(case: Case) -> tuple[np.ndarray, np.ndarray]:
    p = case.positives()
    paired = np.array([float(row.sum() > 0) for row in p])
    conditions = list(case.text_condition)
    share = p.sum(axis=0) if paired.any() else np.ones(len(conditions))
    text = np.array([share[j] / conditions.count(conditions[j]) for j in range(len(conditions))])
    image = paired if paired.any() else np.ones(len(p))
    return image / image.sum(), text / text.sum()
