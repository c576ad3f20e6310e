"""Does familiarity tell pictures of no skin and conditions of no training from photographs like those of training?

    python benchmarks/familiarity.py runs logs/…/run0 logs/…/run1       # finished runs: far pictures against their test
    python benchmarks/familiarity.py held-out features.npz labels.csv path/to/dinov2-small   # whole conditions held out
    python benchmarks/familiarity.py cases logs/…/run0 logs/…/run1       # one answer a case against an answer an image

Far pictures are made by code: black, noise, gradients, screenshots, pages of text, drawings of houses. AUROC is of each
kind against test photographs, beside the largest softmax probability; kept is the share of test photographs whose
familiarity is at least 0.05. ``features.npz`` holds ``image`` and ``features`` (class tokens of the frozen tower),
``labels.csv`` the columns image, condition and look_alike_group; five conditions are held out of each of five splits by
group, and far pictures are asked too.
"""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.special import softmax
from sklearn.metrics import roc_auc_score
from torch.nn.functional import normalize as unit
from transformers import AutoModel

from siglip_med.core.image_spec import ImageSpec
from siglip_med.core.ranges import UNFAMILIAR
from siglip_med.data.dataset import normalize
from siglip_med.data.quality import FAULTS, fault
from siglip_med.inference.familiarity import distances, familiarity
from siglip_med.metrics import Bootstrap, Predictions, against_images, fit_kernel_ridge
from siglip_med.models import Familiarity, Refit
from siglip_med.runs.scoring import answers, familiar, predict
from siglip_med.runs.stored import open_run

SIDE, EACH = 400, 20
_WORDS = [
    "report",
    "of",
    "a",
    "patient",
    "file",
    "edit",
    "view",
    "help",
    "invoice",
    "total",
    "window",
    "error",
    "inbox",
]


def _color(rng: np.random.Generator, low: int = 0, high: int = 256) -> tuple[int, ...]:
    return tuple(rng.integers(low, high, 3).tolist())


def _line(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(_WORDS, words))


def black(rng: np.random.Generator) -> Image.Image:
    """A lens cap: values of 0 to 2."""
    return Image.fromarray(rng.integers(0, 3, (SIDE, SIDE, 3), dtype=np.uint8))


def noise(rng: np.random.Generator) -> Image.Image:
    """Every value as likely."""
    return Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def gradient(rng: np.random.Generator) -> Image.Image:
    """From one color to another, in any direction."""
    first, last, turn = rng.integers(0, 256, 3), rng.integers(0, 256, 3), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    share = np.cos(turn) * x + np.sin(turn) * y
    share = (share - share.min()) / np.ptp(share)
    return Image.fromarray((first + share[..., None] * (last - first)).astype(np.uint8))


def text(rng: np.random.Generator) -> Image.Image:
    """A page of words."""
    page = Image.new("RGB", (SIDE, SIDE), "white")
    draw, size = ImageDraw.Draw(page), int(rng.integers(10, 22))
    for y in range(8, SIDE, size + 6):
        draw.text((8, y), _line(rng, 12), fill="black", font=ImageFont.load_default(size))
    return page


def screenshot(rng: np.random.Generator) -> Image.Image:
    """A window with a bar, a list and boxes."""
    page = Image.new("RGB", (SIDE, SIDE), _color(rng, 200))
    draw, font, bar = ImageDraw.Draw(page), ImageFont.load_default(12), SIDE // 12
    draw.rectangle((0, bar, SIDE // 4, SIDE), fill=_color(rng, 180, 240))
    draw.rectangle((0, 0, SIDE, bar), fill=_color(rng, 0, 120))
    draw.text((6, 4), _line(rng, 3), fill="white", font=font)
    for row in range(int(rng.integers(4, 9))):
        draw.text((6, bar + 10 + 24 * row), _line(rng, 1), fill="black", font=font)
    for _ in range(int(rng.integers(2, 6))):
        x, y = rng.integers(SIDE // 4, SIDE - 60), rng.integers(bar, SIDE - 40)
        right, below = x + rng.integers(40, SIDE // 2), y + rng.integers(20, SIDE // 4)
        draw.rectangle((x, y, right, below), fill=_color(rng), outline="gray")
        draw.text((x + 4, y + 4), _line(rng, 3), fill="black", font=font)
    return page


def drawing(rng: np.random.Generator) -> Image.Image:
    """Houses in a meadow, with a sun."""
    page = Image.new("RGB", (SIDE, SIDE), _color(rng, 140, 250))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, int(SIDE * rng.uniform(0.5, 0.8)), SIDE, SIDE), fill=(40, int(rng.integers(90, 190)), 50))
    for _ in range(int(rng.integers(1, 4))):
        x, y, wide = (SIDE * rng.uniform(low, high) for low, high in ((0.1, 0.6), (0.4, 0.6), (0.15, 0.35)))
        draw.rectangle((x, y, x + wide, y + wide), fill=_color(rng), outline="black")
        draw.polygon((x - 5, y, x + wide / 2, y - wide / 2, x + wide + 5, y), fill=_color(rng))
    x, y = SIDE * rng.uniform(0.1, 0.9), SIDE * rng.uniform(0.05, 0.2)
    draw.ellipse((x - 20, y - 20, x + 20, y + 20), fill="yellow")
    return page


KINDS: tuple[Callable[[np.random.Generator], Image.Image], ...] = (black, noise, gradient, screenshot, text, drawing)


def far_pictures(side: int, seed: int) -> dict[str, np.ndarray]:
    """Kind -> ``[EACH, side, side, 3]`` uint8."""
    rng = np.random.default_rng(seed)
    return {
        kind.__name__: np.stack(
            [np.asarray(kind(rng).resize((side, side), Image.Resampling.BICUBIC)) for _ in range(EACH)]
        )
        for kind in KINDS
    }


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """How well a measure that is higher inside tells the two apart."""
    return float(roc_auc_score([1] * len(inside) + [0] * len(outside), np.concatenate([inside, outside])))


@torch.no_grad()
def of_run(folder: Path, seed: int) -> dict[str, float]:
    """Far pictures against the test split of a finished run, which is predicted again: it may be from before."""
    run = open_run(folder / "checkpoints" / "best.ckpt", ".cache", device="cpu")
    components, refit = run.components, run.refit
    components.model.load_trainable_state(run.trained)
    rule, tuned = familiar(components, refit, answers(refit, predict(components)))
    assert refit is not None
    test, model = tuned.test, components.model.eval()
    values, softmaxes, ps = {"kept": float((~test.unfamiliar).mean())}, [], []
    for kind, squares in far_pictures(model.image_spec.size, seed).items():
        features = model.pooled_features(normalize(squares, model.image_spec))
        p = familiarity(rule, refit, features, None, [fault(square, (SIDE, SIDE)) for square in squares])
        ps.append(p)
        softmaxes.append(softmax(refit(features).numpy(), axis=1).max(axis=1))
        values |= {kind: auroc(test.familiarity, p), f"{kind}, flagged": float((p < UNFAMILIAR).mean())}
    values["far"] = auroc(test.familiarity, np.concatenate(ps))
    values["far, flagged"] = float((np.concatenate(ps) < UNFAMILIAR).mean())
    values["far, softmax"] = auroc(softmax(test.logits, axis=1).max(axis=1), np.concatenate(softmaxes))
    return values


@torch.no_grad()
def embedded(tower: str, seed: int) -> tuple[np.ndarray, list[str]]:
    """Class tokens ``[N, F]`` of far pictures, L2-normalized, and their faults."""
    model, squares = AutoModel.from_pretrained(tower, dtype=torch.float32).eval(), [*far_pictures(224, seed).values()]
    spec = ImageSpec(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = [model(pixel_values=normalize(some, spec)).last_hidden_state[:, 0] for some in squares]
    faults = [fault(square, (SIDE, SIDE)) for some in squares for square in some]
    return unit(torch.cat(found), dim=1).numpy(), faults


def held_out(
    features: np.ndarray,
    condition: np.ndarray,
    group: np.ndarray,
    far: tuple[np.ndarray, list[str]],
    seed: int,
    k: int = 5,
) -> dict[str, float]:
    """Whole conditions, and far pictures, against test photographs of the others, by the familiarity of those."""
    rng, names = np.random.default_rng(seed), np.unique(condition)
    known = np.setdiff1d(names, rng.choice(names, k, replace=False))
    groups = np.unique(group)
    part = rng.choice(3, len(groups), p=[0.7, 0.15, 0.15])[np.searchsorted(groups, group)]
    inside, y = np.isin(condition, known), np.searchsorted(known, condition)
    train, val, test = (np.flatnonzero(inside & (part == number)) for number in range(3))
    frame = Predictions.of(np.zeros((len(val), len(known))), np.eye(len(known))[y[val]])
    fitted = fit_kernel_ridge(features[train], np.eye(len(known))[y[train]], features[val], frame)
    refit = Refit(fitted.calibrated(features[val], frame).arrays())

    def measured(x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
        with torch.no_grad():
            return refit(torch.from_numpy(x)).numpy(), distances(refit, x), [""] * len(x)

    rule = Familiarity.fit(*measured(features[val]), FAULTS)
    ours, others, pictures = (measured(x) for x in (features[test], features[~inside], far[0]))
    p = rule.p_values(*pictures[:2], far[1])
    strange = [rule.strangeness(*of[:2]) for of in (ours, others)]
    near = [-one[1] for one in (ours, others) if one[1] is not None]
    return {
        "held out": auroc(-strange[0], -strange[1]),
        "held out, distance alone": auroc(*near),
        "held out, softmax": auroc(*(softmax(of[0], axis=1).max(axis=1) for of in (ours, others))),
        "kept": float((rule.p_values(*ours) >= UNFAMILIAR).mean()),
        "held out, flagged": float((rule.p_values(*others) < UNFAMILIAR).mean()),
        "far": auroc(rule.p_values(*ours), p),
        "far, strangeness alone": auroc(-strange[0], -rule.strangeness(*pictures[:2])),
        "far, softmax": auroc(*(softmax(of[0], axis=1).max(axis=1) for of in (ours, pictures))),
        "far, flagged": float((p < UNFAMILIAR).mean()),
    }


def cases(folder: Path) -> dict[str, float]:
    """One answer a case against an answer an image, on a run's test split; prints the paired intervals."""
    values = {}
    for one in against_images(Predictions.load(folder / "predictions" / "test"), Bootstrap()):
        name = f"{one.metric}, {'cases with several images' if one.several else 'all cases'}"
        gain = one.gain
        print(
            f"{folder.name} {name} ({one.count}): {one.image.estimate:.3f} an image, {one.case.estimate:.3f} a case, "
            f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        )
        values |= {
            f"{name}: image": one.image.estimate,
            f"{name}: case": one.case.estimate,
            f"{name}: gain": gain.estimate,
        }
    return values


def print_over_runs(found: list[dict[str, float]]) -> None:
    """Each number's mean over runs, with half of its 95% interval, and its value in each run."""
    for name in found[0]:
        values = [one[name] for one in found]
        half = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        print(f"{name:45s} {np.mean(values):+.3f} ± {half:.3f}  {' '.join(f'{value:.3f}' for value in values)}")


def main() -> None:
    """Measures, and prints every seed and the mean."""
    what, *given = sys.argv[1:] or ["-h"]
    if what == "held-out":
        kept = np.load(given[0])
        table = {row["image"]: row for row in csv.DictReader(Path(given[1]).read_text(encoding="utf-8").splitlines())}
        rows = [table[str(image)] for image in kept["image"]]
        condition, group = (np.array([row[name] for row in rows]) for name in ("condition", "look_alike_group"))
        features, far = unit(torch.from_numpy(kept["features"]), dim=1).numpy(), embedded(given[2], 0)
        found = [held_out(features, condition, group, far, seed) for seed in range(5)]
    elif what in ("runs", "cases"):
        found = [cases(Path(one)) if what == "cases" else of_run(Path(one), seed) for seed, one in enumerate(given)]
    else:
        print(__doc__)
        return
    print_over_runs(found)


if __name__ == "__main__":
    main()
