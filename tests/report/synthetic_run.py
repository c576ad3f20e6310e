"""Predictions of a made-up run: a tree of codes, ragged labels, cases of one to three images, unknown attributes."""

import numpy as np
import pandas as pd

from siglip_med.metrics.predictions import Predictions

CHAPTERS = ("I - Infections (A00-B99)", "II - Neoplasms (C00-D49)", "XII - Diseases of the skin (L00-L99)")


def synthetic_predictions(
    images: int = 120, conditions: int = 12, skill: float = 2.0, seed: int = 0, split: str = "test"
) -> Predictions:
    """The truth of a ``seed`` and ``split`` is the same at any ``skill`` (how far listed conditions score above)."""
    rng = np.random.default_rng([seed, len(split)])
    letters = ("A", "C", "L", "L")
    codes = tuple(f"{letters[c % 4]}{10 + c // 4}.{c % 3}" for c in range(conditions))
    chapters = tuple(CHAPTERS[min("ACL".index(code[0]), 2)] for code in codes)
    blocks = tuple(f"{code[:2]} block" for code in codes)
    share = 1.0 / np.arange(1, conditions + 1)
    labels = np.zeros((images, conditions), dtype=np.float32)
    primary = np.empty(images, dtype=np.int64)
    for row in range(images):
        positive = rng.choice(
            conditions, size=rng.integers(1, min(4, conditions)), replace=False, p=share / share.sum()
        )
        labels[row, positive] = np.linspace(0.9, 0.3, len(positive))
        primary[row] = positive[0]
    same = np.array([[a[:1] == b[:1] for a in codes] for b in codes])
    close = np.array([[a[:3] == b[:3] for a in codes] for b in codes])
    distance = np.where(close, 0.4, np.where(same, 0.8, 1.0)) * (1 - np.eye(conditions))
    text = rng.standard_normal((conditions, 16)) + 3 * rng.standard_normal((26, 16))[[ord(c[0]) - 65 for c in codes]]
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    cases = np.sort(rng.integers(0, max(1, images // 2), size=images))
    attributes = {
        "skin_tone": ["1", "2", "3", "4", "5", "6", ""],
        "sex": ["female", "male", ""],
        "age_group": ["18-29", "30-39", "60+", ""],
        "site": ["arm", "torso", "leg"],
    }
    frame = pd.DataFrame(
        {
            "image": [f"images/{split}_{i}.png" for i in range(images)],
            "image_id": [f"{split}_{i}" for i in range(images)],
        }
        | {"case": [f"{split}_{case}" for case in cases]}
        | {name: rng.choice(values, size=images) for name, values in attributes.items()}
    )
    noise = rng.standard_normal((images, conditions))
    image = labels @ text * skill + 0.4 * rng.standard_normal((images, 16))
    return Predictions(
        logits=(skill * (labels > 0) + noise - 3.0).astype(np.float32),
        labels=labels,
        primary=primary,
        frame=frame,
        conditions=tuple(f"Condition {c}" for c in range(conditions)),
        codes=codes,
        groups=tuple(f"Group {c % 5}" for c in range(conditions)),
        dissimilarity=distance,
        train_counts=np.round(600 * share).astype(np.int64),
        text_embeddings=text.astype(np.float32),
        image_embeddings=(image / np.linalg.norm(image, axis=1, keepdims=True)).astype(np.float32),
        split=split,
        chapters=chapters,
        blocks=blocks,
    )
