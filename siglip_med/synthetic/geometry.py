"""Where lesions lie, and how far each pixel is from the nearest of them."""

from dataclasses import dataclass

import numpy as np

from siglip_med.synthetic.vocabulary import Layer

_ASPECT = {"oval": 0.58, "linear": 0.16}


@dataclass(frozen=True)
class Lesions:
    """The lesions of one layer as drawn for one case, in the frame's coordinates (0 to 1 along each side).

    Attributes:
        layer: what they are.
        centers: ``[n, 2]`` x, y; radii: ``[n]`` (strokes: half the length); angles: ``[n]`` radians.
        strengths: ``[n]`` factor on the color, about 1.
        warp: how far the outline strays from its shape, as a share of the radius.
    """

    layer: Layer
    centers: np.ndarray
    radii: np.ndarray
    angles: np.ndarray
    strengths: np.ndarray
    warp: float


def _grid(rng: np.random.Generator, n: int, jitter: float) -> np.ndarray:
    side = int(np.ceil(np.sqrt(n * 1.25)))
    cells = rng.choice(side * side, size=n, replace=False)
    points = np.stack([cells % side, cells // side], axis=1) + 0.5 + rng.uniform(-jitter, jitter, (n, 2)) / 2
    return points / side * 1.1 - 0.05


def _clusters(rng: np.random.Generator, n: int, spread: float, groups: int) -> np.ndarray:
    middles = rng.uniform(0.25, 0.75, (groups, 2))
    return middles[rng.integers(groups, size=n)] + rng.normal(0, spread, (n, 2))


def place(rng: np.random.Generator, n: int, size: float, arrangement: str) -> tuple[np.ndarray, np.ndarray]:
    """Lay out ``n`` lesions of radius about ``size``.

    Args:
        rng: source of randomness.
        n: number of lesions.
        size: typical radius, a fraction of the frame.
        arrangement: one of `vocabulary.ARRANGEMENTS`.

    Returns:
        centers ``[n, 2]`` and angles ``[n]`` in radians.
    """
    angles = rng.uniform(0, np.pi, n)
    heading = rng.uniform(0, np.pi)
    along = np.array([np.cos(heading), np.sin(heading)])
    across = np.array([-along[1], along[0]])
    steps = np.linspace(-0.5, 0.5, n) if n > 1 else np.zeros(1)
    if arrangement == "single":
        centers = rng.normal(0.5, 0.05, (1, 2)) + rng.normal(0, size * 0.9, (n, 2)) * (n > 1)
    elif arrangement in ("scattered", "spread"):
        centers = _grid(rng, n, 0.9)
        if arrangement == "scattered":
            centers = 0.5 + (centers - 0.5) * 0.85
    elif arrangement == "follicular":
        centers = _grid(rng, n, 0.35)
    elif arrangement == "grouped":
        centers = _clusters(rng, n, min(0.75 * size * np.sqrt(n), 0.16), 1)
    elif arrangement == "clusters":
        centers = _clusters(rng, n, min(0.55 * size * np.sqrt(n) + 0.03, 0.15), int(rng.integers(2, 4)))
    elif arrangement == "linear":
        centers = 0.5 + np.outer(steps * min(0.8, 2.2 * size * n), along) + rng.normal(0, 0.012, (n, 2))
    elif arrangement == "parallel":
        centers = 0.5 + np.outer(steps * rng.uniform(0.25, 0.5), across) + rng.normal(0, 0.04, (n, 2))
        angles = heading + rng.normal(0, 0.12, n)
    elif arrangement == "band":
        # A dermatome is a strip across the frame, and runs nearly level on the trunk.
        tilt = rng.uniform(-0.5, 0.5)
        along, across = np.array([np.cos(tilt), np.sin(tilt)]), np.array([-np.sin(tilt), np.cos(tilt)])
        centers = 0.5 + np.outer(rng.uniform(-0.5, 0.5, n), along) + np.outer(rng.normal(0, 0.055, n), across)
    elif arrangement == "ring":
        turn = np.linspace(0, 2 * np.pi, n, endpoint=False) + rng.normal(0, 0.07, n)
        radius = np.clip(size * n / np.pi * rng.uniform(0.95, 1.15), 0.12, 0.34)
        centers = rng.normal(0.5, 0.03, 2) + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    elif arrangement == "symmetric":
        half = _grid(rng, (n + 1) // 2, 0.8) * [0.42, 0.85] + [0.04, 0.08]
        mirrored = np.concatenate([half, half * [-1, 1] + [1, 0]])[:n]
        centers = mirrored + rng.normal(0, 0.015, (n, 2))
    elif arrangement == "tree":
        centers = _grid(rng, n, 0.9)
        angles = np.where(centers[:, 0] < 0.5, -0.6, 0.6) + rng.normal(0, 0.12, n)
    elif arrangement == "fold":
        centers = np.array([0.5, 0.5]) + np.array([[0.0, -0.13], [0.0, 0.13]])[np.arange(n) % 2]
        centers = centers + rng.normal(0, 0.02, (n, 2))
    elif arrangement == "mouth":
        turn = rng.uniform(0, 2 * np.pi, n)
        reach = rng.normal(0.36, 0.045, n)[:, None]
        centers = np.array([0.5, 0.5]) + reach * np.stack([np.cos(turn), 0.8 * np.sin(turn)], axis=1)
    elif arrangement == "exposed":
        # One edge of clothing divides the frame: everything lies on the lower half of it.
        centers = np.array([[0.5, 0.92]]) if n == 1 else rng.uniform([-0.05, 0.5], [1.05, 1.05], (n, 2))
        angles = np.zeros(n)
    else:
        raise ValueError(f"unknown arrangement '{arrangement}'")
    return centers, angles


def draw_lesions(rng: np.random.Generator, layer: Layer) -> Lesions:
    """Draw number, size, place and strength of a layer's lesions for one case."""
    n = int(rng.integers(layer.count[0], layer.count[1] + 1))
    size = rng.uniform(*layer.size)
    centers, angles = place(rng, n, size, layer.arrangement)
    if layer.shape == "geometric" and layer.arrangement != "exposed":
        angles = np.full(n, rng.uniform(0, np.pi))
    warp = {"irregular": 0.34, "annular": 0.10, "branching": 0.3}.get(layer.shape, 0.06)
    return Lesions(
        layer=layer,
        centers=centers.astype(np.float32),
        radii=(size * rng.uniform(0.8, 1.2, n)).astype(np.float32),
        angles=angles.astype(np.float32),
        strengths=rng.uniform(0.8, 1.2, n).astype(np.float32) * np.float32(rng.uniform(0.85, 1.15)),
        warp=warp * (1.35 if layer.border == "irregular" else 1.0),
    )


def distance_field(
    lesions: Lesions, x: np.ndarray, y: np.ndarray, warp_x: np.ndarray, warp_y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each pixel to the nearest lesion, in units of that lesion's radius.

    Args:
        lesions: n lesions.
        x: ``[S, S]`` horizontal coordinate of each pixel.
        y: ``[S, S]`` vertical coordinate.
        warp_x: ``[S, S]`` noise of unit scale that bends the outlines sideways.
        warp_y: ``[S, S]`` noise of unit scale that bends the outlines up and down.

    Returns:
        ``[S, S]`` float32 distance (0 at a center, 1 on an outline), and ``[S, S]`` index of the nearest lesion.
    """
    layer, radii = lesions.layer, lesions.radii
    bend = lesions.warp * float(radii.mean())
    u, v = x + bend * warp_x, y + bend * warp_y
    cosine, sine = np.cos(lesions.angles), np.sin(lesions.angles)
    minor = radii * _ASPECT.get(layer.shape, 0.9)
    # Each lesion's own axes as rows of [n, 3] against the basis (x, y, 1): one matrix product for all pixels.
    basis = np.stack([u.ravel(), v.ravel(), np.ones(u.size, np.float32)]).astype(np.float32)
    cx, cy = lesions.centers[:, 0], lesions.centers[:, 1]
    first = np.stack([cosine / radii, sine / radii, -(cx * cosine + cy * sine) / radii], axis=1)
    second = np.stack([-sine / minor, cosine / minor, (cx * sine - cy * cosine) / minor], axis=1)
    if layer.shape == "geometric":
        tall = 0.92 if layer.arrangement == "exposed" else 0.6
        reach = np.maximum(np.abs(first @ basis), np.abs(second @ basis) / tall)
    elif layer.shape == "angular":
        half, tilt = np.float32(0.5), np.float32(0.866)
        p, q = first @ basis, second @ basis
        reach = np.maximum(np.abs(p), np.maximum(np.abs(half * p + tilt * q), np.abs(half * p - tilt * q)))
    else:
        reach = np.square(first @ basis) + np.square(second @ basis)
    nearest = reach.argmin(axis=0)
    rho = reach[nearest, np.arange(reach.shape[1])]
    if layer.shape not in ("geometric", "angular"):
        rho = np.sqrt(rho)
    return rho.reshape(x.shape), nearest.reshape(x.shape)
