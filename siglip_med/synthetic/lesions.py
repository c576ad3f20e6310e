"""Lesions on the skin: color, relief and surface of each kind."""

import numpy as np

from siglip_med.synthetic.canvas import Canvas, smooth_step
from siglip_med.synthetic.geometry import Lesions, distance_field
from siglip_med.synthetic.surfaces import SURFACE_PAINTERS
from siglip_med.synthetic.vocabulary import BLOOD, COLORS, COVERS, HEIGHTS, LINES, MELANIN

_SOFTNESS = {"sharp": 0.16, "irregular": 0.22, "blurred": 0.75}
_PUS = (0.94, 0.87, 0.55)
_LYMPH = (0.96, 0.90, 0.82)
_REDS = ("red", "pink", "dark red", "salmon")
_DUSK = np.array([0.26, 0.20, 0.05], np.float32)


def paint_lesions(canvas: Canvas, lesions: Lesions) -> None:
    """Paint one layer of lesions."""
    if lesions.layer.lesion in LINES:
        _paint_strokes(canvas, lesions)
        return
    layer = lesions.layer
    warp_x, warp_y = canvas.noise(7), canvas.noise(7)
    rho, nearest = distance_field(lesions, canvas.x, canvas.y, warp_x, warp_y)
    radius = lesions.radii[nearest]
    # An edge is never narrower than a pixel, or small spots would flicker between views.
    soft = np.maximum(_SOFTNESS[layer.border], 1.4 * canvas.pixel / radius)
    mask = smooth_step((1 - rho) / soft + 0.5)
    canvas.lesion = np.maximum(canvas.lesion, mask)
    if layer.halo:
        ring = np.exp(-((np.maximum(rho - 0.9, 0) / 0.45) ** 2)) * (1 - 0.3 * mask)
        canvas.absorb(0.85 * ring, _on_tone(canvas, layer.halo))
    strength = lesions.strengths[nearest]
    if layer.shape == "target":
        _paint_target(canvas, rho, mask * strength)
    elif layer.shape == "annular":
        edge = smooth_step((rho - 0.45) / 0.3)
        _paint_color(canvas, layer.color, mask * strength * (0.25 + 0.75 * edge))
        canvas.height += 0.16 * radius * np.exp(-(((rho - 0.85) / 0.14) ** 2))
        SURFACE_PAINTERS[layer.surface](canvas, mask * edge, rho)
        return
    else:
        _paint_color(canvas, layer.color, mask * strength)
    _raise(canvas, layer.lesion, rho, radius)
    _paint_kind(canvas, layer.lesion, rho, mask)
    SURFACE_PAINTERS[layer.surface](canvas, mask, rho)


def _paint_color(canvas: Canvas, color: str, amount: np.ndarray) -> None:
    if color in COVERS:
        reflectance, opacity = COVERS[color]
        canvas.lay_over(opacity * np.minimum(amount, 1.1), reflectance)
    else:
        canvas.absorb(amount * (1 + 0.12 * canvas.noise(9)), _on_tone(canvas, color))


def _on_tone(canvas: Canvas, color: str) -> np.ndarray:
    """Pigment of a lesion; redness is read against melanin, and turns dusky violet on dark skin."""
    pigment = COLORS[color]
    return pigment + canvas.melanin * _DUSK if color in _REDS else pigment


def _paint_target(canvas: Canvas, rho: np.ndarray, amount: np.ndarray) -> None:
    canvas.absorb(amount * smooth_step((rho - 0.62) / 0.15), COLORS["red"])
    canvas.lay_over(0.35 * amount * np.exp(-(((rho - 0.52) / 0.14) ** 2)), COVERS["pale"][0])
    canvas.absorb(1.1 * amount * smooth_step((0.38 - rho) / 0.12), COLORS["purple"])


def _raise(canvas: Canvas, lesion: str, rho: np.ndarray, radius: np.ndarray) -> None:
    profile, height = HEIGHTS[lesion]
    inside = np.clip(1 - rho * rho, 0, 1)
    if profile == "dome":
        relief = inside * np.sqrt(inside)
    elif profile == "plateau":
        relief = smooth_step((1.05 - rho) / 0.3)
    elif profile == "crater":
        relief = 0.6 * np.exp(-(((rho - 1.0) / 0.15) ** 2)) - smooth_step((0.95 - rho) / 0.3)
    else:
        return
    # Wide plaques are not taller than small ones in proportion: height levels off with the radius.
    canvas.height += (height * np.minimum(radius, 0.11)) * relief


def _paint_kind(canvas: Canvas, lesion: str, rho: np.ndarray, mask: np.ndarray) -> None:
    if lesion in ("vesicle", "bulla"):
        canvas.absorb(0.55 * np.exp(-(((rho - 0.95) / 0.16) ** 2)), BLOOD + 0.25 * MELANIN)
        canvas.gloss += 0.8 * mask
        canvas.lay_over(0.40 * smooth_step((0.55 - rho) / 0.5), _LYMPH)
    elif lesion == "pustule":
        canvas.lay_over(0.92 * smooth_step((0.85 - rho) / 0.35), _PUS)
        canvas.gloss += 0.5 * mask
    elif lesion == "wheal":
        canvas.lay_over(0.22 * smooth_step((0.7 - rho) / 0.4), (0.95, 0.86, 0.80))
    elif lesion in ("ulcer", "erosion"):
        canvas.lay_over(0.6 * smooth_step((0.85 - rho) / 0.2), (0.55, 0.17, 0.14))
        canvas.gloss += 0.7 * mask


def _paint_strokes(canvas: Canvas, lesions: Lesions) -> None:
    layer, rng = lesions.layer, canvas.rng
    lines = []
    for center, half, angle in zip(lesions.centers, lesions.radii, lesions.angles, strict=True):
        lines.append(_line(rng, center, half / 2, angle, layer.lesion))
        if layer.lesion == "vessel":
            lines += [_line(rng, lines[-1][k], half / 4, angle + turn, "vessel") for k, turn in ((3, 0.8), (7, -0.9))]
    width = {"scratch": 1.2, "fissure": 1.6, "burrow": 0.9, "vessel": 0.7}[layer.lesion] * canvas.size / 64
    mask = canvas.stroke(lines, width)
    canvas.lesion = np.maximum(canvas.lesion, mask)
    _paint_color(canvas, layer.color, 1.25 * mask)
    if layer.lesion in ("scratch", "fissure"):
        wide = canvas.stroke(lines, 3 * width)
        canvas.absorb(0.35 * wide, COLORS["pink"])
        canvas.height -= 0.008 * wide if layer.lesion == "fissure" else 0
        canvas.lay_over(0.5 * mask * (canvas.noise(20) > 0.3), (0.30, 0.10, 0.07))
    elif layer.lesion == "burrow":
        ends = [line[-2:] for line in lines]
        canvas.absorb(1.6 * canvas.stroke(ends, 1.8 * width), MELANIN)
    if layer.surface == "weeping":
        canvas.gloss += 1.2 * mask


def _line(rng: np.random.Generator, center: np.ndarray, half: float, angle: float, lesion: str) -> np.ndarray:
    """Points ``[10, 2]`` of a stroke: nearly straight, or wavy for burrows and vessels."""
    t = np.linspace(-1, 1, 10)
    wave = {"burrow": 0.28, "vessel": 0.22}.get(lesion, 0.06)
    side = wave * np.sin(t * rng.uniform(3, 6) + rng.uniform(0, 6.3)) + rng.normal(0, 0.02, 10)
    cosine, sine = np.cos(angle), np.sin(angle)
    return center + half * np.stack([t * cosine - side * sine, t * sine + side * cosine], axis=1)
