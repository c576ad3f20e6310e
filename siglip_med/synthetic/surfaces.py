"""What lies on or in a lesion: scale, crust, moisture, thickened lines, dimples."""

from collections.abc import Callable

import numpy as np

from siglip_med.synthetic.canvas import Canvas, smooth_step
from siglip_med.synthetic.vocabulary import BLOOD, MELANIN

Color = tuple[float, float, float]
Painter = Callable[[Canvas, np.ndarray, np.ndarray], None]

_WHITE = (0.93, 0.91, 0.87)
_SILVER = (0.95, 0.94, 0.93)
_WAX = (0.93, 0.85, 0.60)
_HONEY = (0.80, 0.58, 0.20)
_SCAB = (0.24, 0.10, 0.07)
_KERATIN = (0.85, 0.76, 0.56)


def _flakes(canvas: Canvas, cells: float, threshold: float) -> np.ndarray:
    return smooth_step((canvas.noise(cells) - threshold) / 0.7)


def _ridges(canvas: Canvas, cells: float, width: float) -> np.ndarray:
    """A net of thin lines: where noise crosses zero."""
    return np.clip(1 - np.abs(canvas.noise(cells)) / width, 0, 1)


def _smooth(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    return


def _scaly(
    opacity: float, cells: float, threshold: float, color: Color, height: float = 0, gloss: float = 0
) -> Painter:
    """Flakes of one color all over the lesion."""

    def paint(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
        flakes = _flakes(canvas, cells, threshold)
        canvas.lay_over(opacity * mask * flakes, color)
        canvas.height += height * mask * flakes
        canvas.gloss += gloss * mask

    return paint


def _shiny(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    canvas.gloss += 0.9 * mask
    canvas.relief *= 1 - 0.8 * mask
    canvas.lay_over(0.40 * mask * np.exp(-(((rho - 0.35) / 0.18) ** 2)) * _flakes(canvas, 5, 0.2), (1.0, 0.98, 0.96))


def _silver_scale(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    plates = _flakes(canvas, 13, -0.9) * (0.6 + 0.4 * _flakes(canvas, 34, -0.2))
    canvas.lay_over(0.85 * mask * plates * smooth_step((0.95 - rho) / 0.25), _SILVER)
    canvas.height += 0.008 * mask * plates


def _collarette(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    ring = np.exp(-(((rho - 0.72) / 0.11) ** 2))
    canvas.lay_over(0.75 * ring * (0.5 + 0.5 * _flakes(canvas, 24, -0.4)), _WHITE)


def _yellow_crust(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    clots = _flakes(canvas, 12, -0.25) * smooth_step((1.0 - rho) / 0.3)
    canvas.lay_over(0.88 * mask * clots, _HONEY)
    canvas.height += 0.015 * mask * clots
    canvas.gloss += 0.4 * mask * clots


def _dark_crust(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    clots = _flakes(canvas, 11, -0.45) * smooth_step((0.85 - rho) / 0.25)
    canvas.lay_over(0.88 * mask * clots, _SCAB)
    canvas.height += 0.012 * mask * clots


def _weeping(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    wet = _flakes(canvas, 9, 0.1)
    canvas.gloss += 1.2 * mask
    canvas.lay_over(0.28 * mask * wet, _WAX)
    canvas.lay_over(0.8 * mask * _flakes(canvas, 22, 1.3), (1.0, 0.99, 0.97))


def _leathery(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    bend = 0.05 * canvas.noise(4)
    turn = canvas.rng.uniform(0, np.pi)
    for angle in (turn, turn + 1.2):
        wave = np.sin((canvas.x * np.cos(angle) + canvas.y * np.sin(angle) + bend) * 95)
        lines = np.clip((wave - 0.45) / 0.55, 0, 1).astype(np.float32)
        canvas.absorb(0.55 * mask * lines, 0.5 * MELANIN + 0.25 * BLOOD)
        canvas.height -= 0.010 * mask * lines
    canvas.lay_over(0.35 * mask * _flakes(canvas, 30, 0.6), _WHITE)


def _warty(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    knobs = canvas.noise(20)
    canvas.height += 0.022 * mask * knobs
    canvas.absorb(0.45 * mask * np.clip(-knobs, 0, 1.5), MELANIN)
    canvas.absorb(2.2 * mask * _flakes(canvas, 26, 1.3), MELANIN + 0.4 * BLOOD)


def _cracked(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    lines = _ridges(canvas, 8, 0.16)
    canvas.absorb(0.75 * mask * lines, 0.8 * BLOOD + 0.4 * MELANIN)
    canvas.lay_over(0.45 * mask * _flakes(canvas, 22, 0.1) * (1 - lines), _WHITE)


def _lacy(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    canvas.lay_over(0.65 * mask * _ridges(canvas, 20, 0.35), _SILVER)
    canvas.gloss += 0.7 * mask


def _dimpled(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    dip = np.exp(-((rho / 0.33) ** 2))
    canvas.absorb(0.8 * dip, 0.6 * MELANIN + 0.5 * BLOOD)
    canvas.height -= 0.012 * dip
    canvas.gloss += 0.8 * mask


def _punctum(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    canvas.absorb(1.7 * np.exp(-((rho / 0.22) ** 2)), BLOOD + 0.7 * MELANIN)


def _plugged(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    canvas.lay_over(0.75 * np.exp(-((rho / 0.45) ** 2)), _KERATIN)


def _excoriated(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    canvas.lay_over(0.9 * smooth_step((0.5 - rho) / 0.2), _SCAB)


def _ulcerated(canvas: Canvas, mask: np.ndarray, rho: np.ndarray) -> None:
    floor = smooth_step((0.5 - rho) / 0.15)
    canvas.lay_over(0.85 * floor, (0.45, 0.13, 0.11))
    canvas.height -= 0.05 * floor
    canvas.gloss += 1.0 * mask


SURFACE_PAINTERS: dict[str, Painter] = {
    "smooth": _smooth, "shiny": _shiny, "silver scale": _silver_scale, "collarette": _collarette,
    "yellow crust": _yellow_crust, "dark crust": _dark_crust, "weeping": _weeping, "leathery": _leathery,
    "warty": _warty, "cracked": _cracked, "lacy": _lacy, "dimpled": _dimpled, "punctum": _punctum,
    "plugged": _plugged, "excoriated": _excoriated, "ulcerated": _ulcerated,
    "fine scale": _scaly(0.55, 30, 0.2, _WHITE), "adherent scale": _scaly(0.6, 17, 0.25, _WHITE),
    "greasy scale": _scaly(0.62, 15, 0.1, _WAX, gloss=0.5), "gritty": _scaly(0.7, 36, 0.3, _KERATIN, height=0.008),
    "keratin": _scaly(0.75, 12, -0.1, _KERATIN, height=0.02),
}  # fmt: skip
"""Surface -> painter of ``(canvas, mask [S, S] in [0, 1], distance [S, S] in radii)``."""
