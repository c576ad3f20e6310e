"""The words of a recipe: each is something the renderer can draw and the captions can name."""

from dataclasses import dataclass

import numpy as np

# Absorption of the three channels (R, G, B) per unit of pigment, in optical density. Blood absorbs green and blue,
# melanin all three with a slope towards blue (shape after Jacques 2013, "Optical properties of biological tissues"),
# so that the same redness looks pink on light skin and dusky or violaceous on dark skin without a rule of its own.
BLOOD = np.array([0.06, 0.68, 0.52], np.float32)
MELANIN = np.array([0.50, 0.82, 1.05], np.float32)


def _density(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], np.float32)


COLORS: dict[str, np.ndarray] = {
    "red": 0.85 * BLOOD,
    "dark red": 1.3 * BLOOD + 0.25 * MELANIN,
    "pink": 0.45 * BLOOD,
    "salmon": _density(0.03, 0.42, 0.46),
    "orange": _density(0.04, 0.42, 0.72),
    "rust": _density(0.22, 0.62, 0.90),
    "violet": _density(0.30, 0.62, 0.18),
    "purple": _density(0.42, 0.92, 0.42),
    "dark purple": _density(0.85, 1.30, 0.75),
    "dusky": 0.70 * BLOOD + _density(0.28, 0.25, 0.12),
    "blue-black": _density(0.80, 0.75, 0.35),
    "bluish": _density(0.75, 0.45, 0.15),
    "tan": 0.30 * MELANIN,
    "brown": 0.75 * MELANIN,
    "greybrown": _density(0.48, 0.58, 0.62),
    "black": 2.0 * MELANIN,
    "yellow": _density(0.00, 0.05, 0.40),
}
"""Pigment that a lesion adds to the skin, as optical density of the R, G and B channels."""

COVERS: dict[str, tuple[tuple[float, float, float], float]] = {
    "white": ((0.97, 0.93, 0.89), 0.88),
    "white dust": ((0.90, 0.88, 0.85), 0.30),
    "pale": ((0.93, 0.84, 0.76), 0.42),
    "pearly": ((0.90, 0.78, 0.73), 0.42),
    "grey": ((0.66, 0.60, 0.53), 0.62),
    "clear": ((0.88, 0.78, 0.66), 0.30),
}
"""Colours that lie over the skin instead of absorbing more of it: (reflectance of R, G, B; opacity)."""

HEIGHTS: dict[str, tuple[str, float]] = {
    "macule": ("flat", 0.0),
    "patch": ("flat", 0.0),
    "papule": ("dome", 0.75),
    "flat papule": ("plateau", 0.35),
    "plaque": ("plateau", 0.16),
    "nodule": ("dome", 0.85),
    "wheal": ("plateau", 0.24),
    "vesicle": ("dome", 0.90),
    "bulla": ("dome", 0.75),
    "pustule": ("dome", 0.75),
    "comedo": ("dome", 0.30),
    "ulcer": ("crater", 0.45),
    "erosion": ("crater", 0.12),
    "scar": ("plateau", 0.22),
}
"""Lesions drawn as areas: the profile of their surface and its height over their radius."""

LINES = ("scratch", "fissure", "burrow", "vessel")
"""Lesions drawn as strokes; their size is a length."""

BORDERS = ("sharp", "blurred", "irregular")
SHAPES = ("round", "oval", "irregular", "angular", "geometric", "annular", "target", "linear", "branching")
ARRANGEMENTS = (
    "single", "scattered", "spread", "grouped", "clusters", "linear", "parallel", "band", "ring", "follicular",
    "symmetric", "tree", "fold", "mouth", "exposed",
)  # fmt: skip
SITES = ("face", "mouth", "scalp", "trunk", "arm", "leg", "hand", "palm", "foot", "fold")

SKIN_TONES = ("1", "2", "3", "4", "5", "6")
"""Fitzpatrick types I to VI."""

MELANIN_OF_TONE = (0.05, 0.14, 0.30, 0.55, 0.95, 1.45)
"""Melanin of each Fitzpatrick type, in the unit of `MELANIN`."""


@dataclass(frozen=True)
class Layer:
    """One kind of lesion in a picture: what it is, how many, how large and what it looks like.

    Attributes:
        lesion: a key of `HEIGHTS`, or one of `LINES`.
        count: smallest and largest number of lesions.
        size: smallest and largest radius (strokes: length) as a fraction of the frame.
        arrangement: one of `ARRANGEMENTS`.
        shape: one of `SHAPES`.
        border: one of `BORDERS`.
        surface: a key of `siglip_med.synthetic.surfaces.SURFACE_PAINTERS`.
        color: a key of `COLORS` or `COVERS`.
        halo: color of the skin just around each lesion, a key of `COLORS`, or "".
    """

    lesion: str
    count: tuple[int, int]
    size: tuple[float, float]
    arrangement: str
    shape: str
    color: str
    border: str
    surface: str
    halo: str = ""
