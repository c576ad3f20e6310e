"""Free combinations of lesions for image-caption pretraining: what may be drawn together, not what a condition is."""

from dataclasses import dataclass

import numpy as np

from siglip_med.synthetic.vocabulary import ARRANGEMENTS, LINES, SITES, Layer

_RED = ("red", "pink", "dusky", "dark red", "salmon")
_FLAT = (
    *_RED,
    "orange",
    "rust",
    "violet",
    "purple",
    "blue-black",
    "tan",
    "brown",
    "greybrown",
    "black",
    "white",
    "pale",
)
_SCALES = ("fine scale", "silver scale", "adherent scale", "greasy scale", "collarette")
_WIDE = ("smooth", "shiny", *_SCALES, "gritty", "weeping", "cracked", "leathery", "yellow crust", "dark crust")
_FEW = ("single", "scattered", "spread", "symmetric", "clusters")
_SMALL = ("scattered", "spread", "grouped", "clusters", "linear", "band", "ring", "follicular", "symmetric", "mouth",
          "exposed")  # fmt: skip


@dataclass(frozen=True)
class Habit:
    """The range in which one kind of lesion is drawn."""

    count: tuple[int, int]
    size: tuple[float, float]
    colors: tuple[str, ...]
    surfaces: tuple[str, ...]
    shapes: tuple[str, ...]
    arrangements: tuple[str, ...]


HABITS: dict[str, Habit] = {
    "patch": Habit((1, 6), (0.10, 0.45), (*_FLAT, "white dust"), (*_WIDE, "lacy"),
                   ("irregular", "oval", "round", "geometric", "annular"), (*_FEW, "fold", "tree", "exposed")),
    "plaque": Habit((1, 5), (0.09, 0.34), (*_FLAT, "pearly", "grey"), (*_WIDE, "lacy", "keratin", "warty"),
                    ("irregular", "oval", "round", "geometric", "annular", "angular"), (*_FEW, "band", "tree")),
    "macule": Habit((3, 80), (0.008, 0.09), (*_FLAT, "bluish", "white dust"), ("smooth", "fine scale", "collarette"),
                    ("round", "oval", "irregular"), (*_SMALL, "tree")),
    "papule": Habit((3, 60), (0.013, 0.055), (*_FLAT, "pearly", "grey"),
                    ("smooth", "shiny", "dimpled", "punctum", "plugged", "excoriated", "fine scale", "weeping"),
                    ("round", "oval"), _SMALL),
    "flat papule": Habit((5, 24), (0.025, 0.06), (*_RED, "violet", "brown", "pale", "pearly"),
                         ("smooth", "shiny", "lacy", "fine scale"), ("angular", "round"), _SMALL),
    "nodule": Habit((1, 7), (0.06, 0.24), (*_FLAT, "pearly", "grey", "dark purple"),
                    ("smooth", "shiny", "excoriated", "ulcerated", "keratin", "warty", "dark crust", "dimpled"),
                    ("round", "oval", "irregular"), (*_FEW, "tree")),
    "wheal": Habit((1, 16), (0.04, 0.17), ("red", "pink", "pale", "dusky"), ("smooth", "punctum"),
                   ("round", "irregular", "target", "annular"), (*_FEW, "linear", "grouped")),
    "vesicle": Habit((4, 60), (0.012, 0.04), ("clear",), ("smooth", "weeping", "dimpled"), ("round",), _SMALL),
    "bulla": Habit((1, 6), (0.07, 0.16), ("clear", "purple"), ("smooth", "shiny"), ("round", "oval"), _FEW),
    "pustule": Habit((1, 18), (0.015, 0.07), ("yellow",), ("smooth",), ("round",), (*_SMALL, "single")),
    "comedo": Habit((5, 20), (0.010, 0.02), ("black",), ("smooth",), ("round",),
                    ("scattered", "follicular", "grouped")),
    "ulcer": Habit((1, 5), (0.05, 0.18), ("dark red", "red", "black"), ("smooth", "dark crust", "weeping"),
                   ("round", "irregular", "angular"), _FEW),
    "erosion": Habit((1, 7), (0.05, 0.24), ("red", "dark red"), ("weeping", "dark crust", "yellow crust", "smooth"),
                     ("round", "irregular", "geometric"), (*_FEW, "mouth")),
    "scar": Habit((1, 4), (0.05, 0.28), ("pale", "pink", "brown", "white"), ("shiny", "smooth"),
                  ("linear", "irregular"), ("single", "scattered", "parallel")),
    "scratch": Habit((2, 9), (0.08, 0.30), ("red", "dark red"), ("smooth",), ("linear",), ("parallel", "scattered")),
    "fissure": Habit((1, 8), (0.08, 0.30), ("red", "dark red"), ("smooth", "weeping"), ("linear",),
                     ("parallel", "scattered", "single")),
    "burrow": Habit((2, 6), (0.08, 0.14), ("greybrown", "red"), ("smooth",), ("linear",), ("scattered", "clusters")),
    "vessel": Habit((3, 8), (0.08, 0.18), ("red", "dark red"), ("smooth",), ("branching",), ("scattered", "single")),
}  # fmt: skip
"""Lesion -> its habit; every lesion of the vocabulary is here."""

_FREQUENT = {"patch": 4.0, "plaque": 4.0, "papule": 4.0, "macule": 3.0, "nodule": 2.0, "vesicle": 2.0, "pustule": 2.0,
             "wheal": 2.0}  # fmt: skip
_SITE_OF = {"mouth": "mouth", "fold": "fold"}


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def _draw_layer(rng: np.random.Generator, lesion: str) -> Layer:
    habit = HABITS[lesion]
    # Log-uniform: one lesion or a hundred are as likely as seven.
    low, high = habit.count
    number = int(np.exp(rng.uniform(np.log(low), np.log(high + 0.99))))
    size = float(np.exp(rng.uniform(*np.log(habit.size))))
    # Many large lesions would hide the skin; their area stays below about the frame's.
    if lesion not in LINES:
        size = max(habit.size[0], min(size, 0.62 / np.sqrt(number)))
    arrangement = "single" if number == 1 else _pick(rng, tuple(a for a in habit.arrangements if a != "single"))
    if arrangement not in ARRANGEMENTS:
        raise ValueError(f"unknown arrangement '{arrangement}'")
    border = (
        _pick(rng, ("sharp", "blurred", "irregular"))
        if lesion in ("patch", "plaque", "nodule", "erosion")
        else _pick(rng, ("sharp", "blurred"))
    )
    halo = _pick(rng, ("red", "pink", "brown")) if rng.random() < 0.25 and lesion not in ("patch", *LINES) else ""
    shape = _pick(rng, habit.shapes)
    return Layer(lesion, (number, number), (0.95 * size, 1.05 * size), arrangement, shape, _pick(rng, habit.colors),
                 border, _pick(rng, habit.surfaces), halo)  # fmt: skip


def draw_layers(rng: np.random.Generator) -> tuple[tuple[Layer, ...], str]:
    """One to three kinds of lesion, drawn freely, and a body site they can lie on."""
    names = tuple(HABITS)
    weights = np.array([_FREQUENT.get(name, 1.0) for name in names])
    n = int(rng.choice([1, 2, 3], p=[0.55, 0.37, 0.08]))
    chosen = rng.choice(len(names), size=n, replace=False, p=weights / weights.sum())
    # Wide lesions first: what is painted later lies on top.
    order = sorted((names[k] for k in chosen), key=lambda name: -HABITS[name].size[1] * (name not in LINES))
    layers = tuple(_draw_layer(rng, name) for name in order)
    bound = [_SITE_OF[layer.arrangement] for layer in layers if layer.arrangement in _SITE_OF]
    return layers, bound[0] if bound else _pick(rng, SITES)
