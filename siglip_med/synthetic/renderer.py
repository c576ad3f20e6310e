"""From the drawn appearance of a case to a picture of it."""

from dataclasses import dataclass

import numpy as np

from siglip_med.synthetic.canvas import Canvas
from siglip_med.synthetic.geometry import Lesions, draw_lesions
from siglip_med.synthetic.lesions import paint_lesions
from siglip_med.synthetic.skin import ALBEDO, Skin, draw_skin, expose, paint_hair, paint_skin, shade
from siglip_med.synthetic.vocabulary import Layer


@dataclass(frozen=True)
class Appearance:
    """What all pictures of a case share: its skin and its lesions."""

    skin: Skin
    lesions: tuple[Lesions, ...]


def draw_appearance(rng: np.random.Generator, layers: tuple[Layer, ...], tone: int, site: str) -> Appearance:
    """Draw one case: skin of a Fitzpatrick type (1 to 6) at a body site, and its lesions in the layers' order."""
    return Appearance(draw_skin(rng, tone, site), tuple(draw_lesions(rng, layer) for layer in layers))


def render(appearance: Appearance, size: int, rng: np.random.Generator) -> np.ndarray:
    """``[size, size, 3]`` uint8 RGB: the picture of `render_with_lesions` alone."""
    return render_with_lesions(appearance, size, rng)[0]


def render_with_lesions(appearance: Appearance, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Take one picture of a case: another distance, tilt, light and camera noise with each ``rng``.

    Args:
        appearance: the case.
        size: side of the picture in pixels.
        rng: randomness of this view.

    Returns:
        ``[size, size, 3]`` uint8 RGB, and ``[size, size]`` float32: how much of each pixel is lesion, 0 to 1, all
        lesions of the case in one, without the halo around them and without what a limb's edge cuts off.
    """
    zoom = rng.uniform(0.85, 1.15)
    turn = rng.normal(0, 0.18)
    shift = rng.uniform(-0.06, 0.06, 2)
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) * np.float32(zoom)
    column, row = np.meshgrid(axis, axis)
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    x = cosine * column - sine * row + np.float32(0.5 + shift[0])
    y = sine * column + cosine * row + np.float32(0.5 + shift[1])
    skin = appearance.skin
    canvas = Canvas(rng, x, y, pixel=float(zoom / size), melanin=skin.melanin)
    paint_skin(canvas, skin)
    for lesions in appearance.lesions:
        paint_lesions(canvas, lesions)
    canvas.height += 0.0012 * canvas.relief * canvas.noise(30)
    heading = rng.uniform(0, 2 * np.pi)
    illumination, behind = shade(canvas, skin)
    picture = canvas.compose(ALBEDO, np.array([np.cos(heading), np.sin(heading)]), illumination)
    return expose(paint_hair(picture, canvas, skin), canvas, behind), canvas.lesion * (1 - behind)
