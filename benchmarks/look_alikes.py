"""Plants look-alikes among drawings and looks how many are found, by cosine and by perceptual hash.

    python benchmarks/look_alikes.py model=dual_encoder model.vision=path/to/dinov2-small model.text=path/to/minilm
    python benchmarks/look_alikes.py            # the embedded base
    python benchmarks/look_alikes.py --size     # time and memory of 50,000 x 384

600 drawings of as many cases; of 100 of them each kind of look-alike is made. A found pair counts where both images
show the same lesion. The threshold is the one that `siglip-med-check look_alikes=true` proposes from the labels of
these images; no truth is used.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable

import cv2
import imagehash
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from siglip_med.core.config import config_dir
from siglip_med.data.dataset import normalize
from siglip_med.data.look_alikes import label_agreement, look_alike_pairs, many_pairs, unit, whitened
from siglip_med.data.near_duplicates import near_duplicate_pairs
from siglip_med.runs.components import build_model
from siglip_med.synthetic.cases import plan_cases
from siglip_med.synthetic.recipes import load_recipes
from siglip_med.synthetic.renderer import draw_appearance, render

CASES, PLANTED = 600, 100
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def crop(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Four fifths of each side, from anywhere."""
    side = len(picture)
    part = round(0.8 * side)
    top, left = rng.integers(0, side - part + 1, 2)
    return cv2.resize(picture[top : top + part, left : left + part], (side, side), interpolation=cv2.INTER_CUBIC)


def flip(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Left and right exchanged."""
    return np.ascontiguousarray(picture[:, ::-1])


def exposure(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half a stop lighter or darker, and a warmer or colder white."""
    gain = 2 ** rng.choice([-0.5, 0.5]) * rng.uniform(0.94, 1.06, 3)
    return np.clip(picture * gain, 0, 255).astype(np.uint8)


def watermark(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White words across the lower third."""
    side = len(picture)
    shown = picture.copy()
    cv2.putText(shown, "derm atlas", (side // 12, side * 4 // 5), cv2.FONT_HERSHEY_SIMPLEX, side / 200, (255,) * 3, 2)
    return cv2.addWeighted(picture, 0.4, shown, 0.6, 0)


def jpeg(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compressed at quality 25."""
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 25])[1], cv2.IMREAD_COLOR))


def turn(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Up to ten degrees, the edges mirrored."""
    side = len(picture)
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), rng.choice([-1, 1]) * rng.uniform(4, 10), 1.0)
    return cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


CHANGES: dict[str, Change] = {f.__name__: f for f in (crop, flip, exposure, watermark, jpeg, turn)}


def planted(size: int, cases: int, copies: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``[N, S, S, 3]`` pictures, ``[N]`` case, ``[N]`` kind ("" for the first of a case), ``[N, C]`` bool labels."""
    recipes = load_recipes()
    column = {recipe.condition: place for place, recipe in enumerate(recipes)}
    pictures, of, kinds, labels = [], [], [], []
    for case in plan_cases(recipes, max(cases * 3, 3 * len(recipes)), seed=0)[:cases]:
        rng = np.random.default_rng([1, case.number])
        look = draw_appearance(rng, case.layers, case.tone, case.site)
        picture = render(look, size, rng)
        made = [("", picture)]
        if case.number < copies:
            made += [(name, change(picture, rng)) for name, change in CHANGES.items()]
            made.append(("drawn again", render(look, size, rng)))
        for kind, shown in made:
            pictures.append(shown)
            of.append(case.number)
            kinds.append(kind)
            labels.append([column[name] for name in case.weights])
    listed = np.zeros((len(pictures), len(recipes)), bool)
    for row, columns in enumerate(labels):
        listed[row, columns] = True
    return np.stack(pictures), np.array(of), np.array(kinds), listed


def scores(pairs: np.ndarray, cases: np.ndarray, kinds: np.ndarray) -> dict[str, float]:
    """Recall of each kind (pairs with the first picture of the case), of all pairs of one lesion, and precision."""
    right = cases[pairs[:, 0]] == cases[pairs[:, 1]]
    found = {(a, b) for a, b in np.sort(pairs, axis=1).tolist()}
    first = {case: row for row, (case, kind) in enumerate(zip(cases.tolist(), kinds.tolist(), strict=True)) if not kind}
    values = {}
    for kind in [name for name in dict.fromkeys(kinds.tolist()) if name]:
        rows = np.flatnonzero(kinds == kind)
        values[kind] = float(np.mean([(first[int(cases[row])], int(row)) in found for row in rows]))
    _, counts = np.unique(cases, return_counts=True)
    values["all pairs"] = float(right.sum() / (counts * (counts - 1) // 2).sum())
    values["precision"] = float(right.mean()) if len(right) else float("nan")
    return values


def main() -> None:
    """Prints the table, or what 50,000 images cost."""
    if "--size" in sys.argv:
        features = unit(np.random.default_rng(0).standard_normal((50_000, 384)))
        tracemalloc.start()
        start = time.perf_counter()
        pairs = look_alike_pairs(whitened(features), 0.7)
        more = tracemalloc.get_traced_memory()[1] / 1e9
        print(
            f"50,000 x 384: {time.perf_counter() - start:.1f} s, {more:.2f} GB beyond the features; {pairs.found} pairs"
        )
        return
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        config = compose("check", overrides=sys.argv[1:])
    model = build_model(config.model, 0).eval()
    pictures, cases, kinds, labels = planted(model.image_spec.size, CASES, PLANTED)
    with torch.inference_mode():
        parts = np.array_split(pictures, -(-len(pictures) // 32))
        plain = torch.cat([model.pooled_features(normalize(part, model.image_spec)) for part in parts]).numpy()
    hashes = np.array([int(str(imagehash.phash(Image.fromarray(picture))), 16) for picture in pictures], np.uint64)
    show(plain, hashes, cases, kinds, labels)


def show(plain: np.ndarray, hashes: np.ndarray, cases: np.ndarray, kinds: np.ndarray, labels: np.ndarray) -> None:
    """Prints the table of one set of features."""
    features = whitened(plain)
    agreement = label_agreement(many_pairs(features), np.arange(len(cases)).astype(str), labels)
    for low, count, share in zip(agreement.low, agreement.pairs, agreement.above_chance, strict=True):
        print(f"  cosine {low:.2f}: {count:6,} pairs, labels agree {share:+.2f} above chance")
    found = {f"hash, {bits} bits": near_duplicate_pairs(hashes, bits)[:, :2] for bits in (4, 10)}
    if (threshold := agreement.proposed()) is not None:
        proposed = look_alike_pairs(features, threshold).rows
        both = np.unique(np.concatenate([proposed, found["hash, 4 bits"]]), axis=0)
        found |= {f"cosine {threshold:.2f} (proposed)": proposed, "cosine or hash, 4 bits": both}
    found |= {f"plain cosine {cosine}": look_alike_pairs(unit(plain), cosine).rows for cosine in (0.86, 0.90, 0.94)}
    for name, pairs in found.items():
        values = ", ".join(f"{key} {value:.2f}" for key, value in scores(pairs, cases, kinds).items())
        print(f"{name}: {len(pairs):,} pairs; {values}")


if __name__ == "__main__":
    main()
