"""Ragged batches that every term must get right."""

import numpy as np

from tools.debug_losses import example_batch

from .reference import Case

CONDITIONS = 12
DISSIMILARITY = example_batch().needed("dissimilarity").double().numpy()


def case(images: int, conditions: list[int], rows: list[dict[int, float]], seed: int = 0, dimensions: int = 4) -> Case:
    """Random embeddings; texts of one condition share theirs, as repeated prompts do."""
    rng = np.random.default_rng(seed)
    prompts = rng.normal(size=(CONDITIONS, dimensions))
    labels = np.zeros((images, CONDITIONS))
    for row, listed in enumerate(rows):
        for condition, weight in listed.items():
            labels[row, condition] = weight
    return Case(
        image=rng.normal(size=(images, dimensions)),
        text=prompts[conditions],
        labels=labels,
        text_condition=np.array(conditions),
        dissimilarity=DISSIMILARITY,
        counts=np.array([40, 3, 0, 10, 200, 7, 1, 90, 15, 22, 5, 60], dtype=float),
    )


CASES = {
    "square": case(3, [0, 4, 8], [{0: 1}, {4: 1}, {8: 1}]),
    "more_texts_than_images": case(2, [0, 1, 3, 6, 9], [{0: 1, 6: 1}, {3: 1}]),
    "more_images_than_texts": case(5, [1, 7], [{1: 1}, {1: 1}, {7: 1}, {1: 1, 7: 1}, {7: 1}]),
    "row_without_a_positive": case(3, [0, 5, 11], [{0: 1}, {}, {5: 1, 11: 1}]),
    "label_outside_the_pool": case(2, [0, 5], [{0: 1}, {9: 1}]),
    "all_positives": case(2, [2, 3], [{2: 1, 3: 1}, {2: 1, 3: 1}]),
    "no_positive_at_all": case(2, [2, 3, 9], [{}, {}]),
    "one_image": case(1, [0, 4, 8], [{4: 1}]),
    "one_image_one_text": case(1, [4], [{4: 1}]),
    "repeated_prompts": case(3, [0, 4, 0, 4, 8], [{0: 1}, {4: 1, 0: 1}, {8: 1}]),
    "weights": case(4, [0, 1, 6, 10], [{0: 0.7, 1: 0.3}, {6: 0.5, 10: 0.25}, {1: 1}, {0: 0.2, 6: 0.2}]),
}
