"""Made-up predictions with what makes real ones awkward: a long tail, weighted labels, ragged cases, unknowns."""

import numpy as np
import pandas as pd

from siglip_med.metrics import Predictions


def tree_distance(conditions: int) -> np.ndarray:
    """``[C, C]`` a small ultrametric D: pairs share a block (0.4), fours a chapter (0.7), the rest nothing (1)."""
    index = np.arange(conditions)
    same = [index[:, None] // width == index[None] // width for width in (1, 2, 4)]
    return np.where(same[0], 0.0, np.where(same[1], 0.4, np.where(same[2], 0.7, 1.0)))


def make_predictions(
    seed: int = 0, images: int = 200, conditions: int = 12, cases: int = 80, signal: float = 2.0, split: str = "test"
) -> Predictions:
    """Images of at most ``cases`` cases; ``signal`` is how far a label lifts its logit, in standard deviations."""
    rng = np.random.default_rng(seed)
    frequency = 1.0 / np.arange(1, conditions + 1)
    frequency /= frequency.sum()
    rows = np.arange(images)
    primary = rng.choice(conditions, images, p=frequency)
    labels = np.zeros((images, conditions), dtype=np.float32)
    for _ in range(3):
        other = rng.choice(conditions, images, p=frequency)
        labels[rows, other] = np.where(rng.random(images) < 0.4, rng.choice([0.25, 0.5], images), labels[rows, other])
    labels[rows, primary] = 1.0
    case = rng.integers(cases, size=images)
    effect = rng.standard_normal((cases, 1))[case] * (labels > 0)
    logits = signal * (labels > 0) + effect + rng.standard_normal((images, conditions)) - 4.0
    frame = pd.DataFrame(
        {
            "image": [f"folder/{row:05d}.png" for row in rows],
            "image_id": [f"-{row:05d}" for row in rows],
            "case": [f"case {number}" for number in case],
            "skin_tone": rng.choice(["", "1", "3", "6"], images, p=[0.2, 0.5, 0.2, 0.1]),
            "sex": rng.choice(["", "female", "male"], images),
            "age_group": rng.choice(["18-29", "30-39"], images),
            "site": rng.choice(["", "arm", "head, neck"], images),
        }
    )
    names = tuple(f"Condition {index}" for index in range(conditions))
    return Predictions(
        logits=logits.astype(np.float32),
        labels=labels,
        primary=primary,
        frame=frame,
        conditions=names,
        codes=tuple(f"L{index // 2}.{index % 2}" for index in range(conditions)),
        groups=tuple(f"group {index // 4}" for index in range(conditions)),
        dissimilarity=tree_distance(conditions),
        train_counts=np.bincount(primary, minlength=conditions) * 3,
        text_embeddings=_unit(rng.standard_normal((conditions, 8))),
        image_embeddings=_unit(rng.standard_normal((images, 8))),
        split=split,
        meta={"run": "simulated"},
        chapters=tuple(f"chapter {index // 4}" for index in range(conditions)),
        blocks=tuple(f"block {index // 2}" for index in range(conditions)),
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
