"""Bare skin: its color, the texture of each body site, hair, light and what is behind."""

from dataclasses import dataclass

import cv2
import numpy as np

from siglip_med.synthetic.canvas import Canvas, Image, smooth_step
from siglip_med.synthetic.vocabulary import BLOOD, MELANIN, MELANIN_OF_TONE

ALBEDO = np.array([0.97, 0.87, 0.80], np.float32)
"""Reflectance of skin without blood and melanin."""

_LIMB = {"arm": 0.62, "leg": 0.80, "hand": 0.72, "foot": 0.75}


@dataclass(frozen=True)
class Skin:
    """The skin of one case.

    Attributes:
        tone: Fitzpatrick type, 1 to 6; melanin: pigment in the unit of `MELANIN`; blood: of `BLOOD`.
        site: one of `vocabulary.SITES`.
        axis: direction of a limb or a crease, radians; hair: share of the usual number of hairs, 0 to 2.
    """

    tone: int
    melanin: float
    blood: float
    site: str
    axis: float
    hair: float


def draw_skin(rng: np.random.Generator, tone: int, site: str) -> Skin:
    """Draw the skin of one case with the given Fitzpatrick type (1 to 6) and body site."""
    melanin = MELANIN_OF_TONE[tone - 1] * float(rng.uniform(0.85, 1.15)) + float(rng.uniform(0, 0.04))
    return Skin(
        tone=tone, melanin=melanin, blood=float(rng.uniform(0.05, 0.14)), site=site, axis=float(rng.uniform(-0.6, 0.6)),
        hair=float(rng.uniform(0, 1) ** 2 * 2),
    )  # fmt: skip


def _wave(canvas: Canvas, offset: float, axis: float, amplitude: float) -> np.ndarray:
    """A gently bent line across the frame, as points ``[24, 2]``."""
    t = np.linspace(-0.8, 0.8, 24)
    bend = amplitude * np.sin(t * canvas.rng.uniform(2, 5) + canvas.rng.uniform(0, 6.3)) + offset
    along, across = np.array([np.cos(axis), np.sin(axis)]), np.array([-np.sin(axis), np.cos(axis)])
    return 0.5 + np.outer(t, along) + np.outer(bend, across)


def paint_skin(canvas: Canvas, skin: Skin) -> None:
    """Lay down the pigment and the fine relief of bare skin at a body site."""
    melanin = skin.melanin * (0.4 if skin.site == "palm" else 1.0)
    mottle = 1 + 0.07 * canvas.noise(3) + 0.035 * canvas.noise(9) + 0.03 * canvas.noise(40)
    canvas.absorb(mottle * melanin + 0.01, MELANIN)
    canvas.absorb(skin.blood * (1 + 0.25 * canvas.noise(4) + 0.12 * canvas.noise(14)), BLOOD)
    canvas.height += 0.0016 * canvas.noise(34)
    if skin.site == "palm":
        creases = [_wave(canvas, offset, skin.axis + turn, 0.07) for offset, turn in ((-0.2, 0.2), (0.05, 0), (0.2, 1))]
        mark = canvas.stroke(creases, 1.0)
        canvas.absorb(0.5 * mark, BLOOD + 0.3 * MELANIN)
        ridges = np.sin((canvas.x * np.cos(skin.axis) + canvas.y * np.sin(skin.axis) + 0.02 * canvas.noise(4)) * 160)
        canvas.absorb(0.05 * ridges.astype(np.float32), BLOOD)
    elif skin.site == "hand":
        lines = [_wave(canvas, offset, skin.axis, 0.02) for offset in canvas.rng.normal(-0.3, 0.05, 5)]
        canvas.absorb(0.35 * canvas.stroke(lines, 0.8), 0.5 * BLOOD + 0.5 * MELANIN)
        canvas.height += 0.002 * canvas.noise(22)
    elif skin.site == "face":
        pores = np.clip(canvas.noise(44) - 1.1, 0, 1)
        canvas.absorb(0.25 * pores, 0.5 * MELANIN + 0.2 * BLOOD)
        canvas.absorb(0.16 * np.clip(canvas.noise(3), 0, 2), BLOOD)
        canvas.gloss += 0.12
    elif skin.site == "mouth":
        _paint_mouth(canvas)
    elif skin.site == "fold":
        axis = skin.axis * 0.5
        crease = _wave(canvas, 0.0, axis, 0.03)
        near = np.abs((canvas.y - 0.5) * np.cos(axis) - (canvas.x - 0.5) * np.sin(axis))
        canvas.absorb(0.45 * np.exp(-((near / 0.10) ** 2)), 0.6 * MELANIN + 0.3 * BLOOD)
        canvas.height -= 0.018 * np.exp(-((near / 0.05) ** 2))
        canvas.absorb(0.9 * canvas.stroke([crease], 2.0), MELANIN + 0.4 * BLOOD)
    elif skin.site == "trunk":
        canvas.height += 0.03 * canvas.noise(2)


def _paint_mouth(canvas: Canvas) -> None:
    dx, dy = (canvas.x - 0.5) / 0.24, canvas.y - 0.5
    half = 0.085 * np.clip(1 - dx * dx, 0, 1)
    lips = smooth_step((half - np.abs(dy)) / (2 * canvas.pixel) + 0.5) * (np.abs(dx) < 1)
    canvas.absorb(0.75 * lips, BLOOD + np.array([0.12, 0.05, 0.0], np.float32))
    canvas.height += 0.05 * np.sqrt(half) * lips
    canvas.gloss += 0.25 * lips
    gap = np.stack([np.linspace(0.27, 0.73, 16), 0.5 + 0.012 * np.sin(np.linspace(0, 9, 16))], axis=1)
    canvas.absorb(1.1 * canvas.stroke([gap], 1.2), MELANIN + 0.6 * BLOOD)


def _strand(rng: np.random.Generator, start: np.ndarray, heading: float, length: float) -> np.ndarray:
    t = np.linspace(0, 1, 6)
    turn = heading + rng.normal(0, 0.35) + rng.normal(0, 0.7) * t
    steps = np.stack([np.cos(turn), np.sin(turn)], axis=1) * (length / 6)
    return start + np.cumsum(steps, axis=0)


def paint_hair(picture: Image, canvas: Canvas, skin: Skin) -> Image:
    """Lay hair over the finished picture: dense on the scalp, sparse on limbs, none on palms, lips and folds."""
    rng = canvas.rng
    usual = {"scalp": 46, "arm": 9, "leg": 10, "trunk": 4, "face": 3}.get(skin.site, 0)
    n = round(usual * (0.6 + 0.5 * skin.hair if skin.site == "scalp" else skin.hair))
    if n == 0:
        return picture
    length = 0.5 if skin.site == "scalp" else 0.12
    starts = rng.uniform(-0.2, 1.2, (n, 2))
    strands = [_strand(rng, start, skin.axis + 1.2, length * rng.uniform(0.6, 1.4)) for start in starts]
    dark = np.array([0.13, 0.10, 0.08], np.float32) + np.float32(0.16 * max(0.0, 0.35 - skin.melanin))
    alpha = canvas.stroke(strands, 0.75 if skin.site == "scalp" else 0.42)[..., None]
    return picture * (1 - alpha) + alpha * dark


def shade(canvas: Canvas, skin: Skin) -> tuple[np.ndarray, np.ndarray]:
    """Illumination ``[S, S]`` of this view and how much of each pixel is background ``[S, S]`` (beside a limb)."""
    rng = canvas.rng
    lean = rng.uniform(-0.22, 0.22, 2)
    light = rng.uniform(0.84, 1.06) + lean[0] * (canvas.x - 0.5) + lean[1] * (canvas.y - 0.5)
    behind = np.zeros_like(canvas.x)
    if skin.site in _LIMB:
        across = (canvas.x - 0.5) * np.cos(skin.axis) + (canvas.y - 0.5) * np.sin(skin.axis)
        turn = np.abs(across) / _LIMB[skin.site]
        light = light * np.sqrt(np.clip(1.12 - turn * turn, 0.12, 1.0))
        behind = smooth_step((turn - 1) * _LIMB[skin.site] / (2 * canvas.pixel) + 0.5)
    elif skin.site in ("face", "scalp", "mouth"):
        light = light * (1 - 0.35 * ((canvas.x - 0.5) ** 2 + (canvas.y - 0.5) ** 2))
    return light.astype(np.float32), behind.astype(np.float32)


def expose(picture: Image, canvas: Canvas, behind: np.ndarray) -> np.ndarray:
    """The camera: background, white balance, exposure, blur and noise. Returns ``[S, S, 3]`` uint8 RGB."""
    rng = canvas.rng
    if behind.any():
        cloth = np.array(rng.uniform(0.15, 0.85) * rng.uniform(0.75, 1.1, 3), np.float32)
        texture = 1 + 0.06 * canvas.noise(12)[..., None]
        picture = picture * (1 - behind[..., None]) + behind[..., None] * cloth * texture
    picture = picture * rng.uniform(0.95, 1.05, 3).astype(np.float32)
    sigma = rng.uniform(0.0, 0.65) * canvas.size / 64
    if sigma > 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    grain = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(0.004, 0.016))
    return np.clip((picture + grain) * 255 + 0.5, 0, 255).astype(np.uint8)
