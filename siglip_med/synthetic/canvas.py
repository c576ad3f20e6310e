"""What the renderer paints on: pigment, height, gloss and cover of each pixel, composed into a picture at the end."""

import cv2
import numpy as np

Image = np.ndarray


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """``[size, size]`` float32 noise with zero mean, unit scale and blobs of ``size / cells`` pixels."""
    coarse = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    wide = cv2.resize(coarse, (size + 3 * size // cells, size + 3 * size // cells), interpolation=cv2.INTER_CUBIC)
    start = wide.shape[0] - size
    return np.ascontiguousarray(wide[start // 2 : start // 2 + size, start // 2 : start // 2 + size])


def smooth_step(value: np.ndarray) -> np.ndarray:
    """Hermite step: 0 below 0, 1 above 1."""
    t = np.clip(value, 0, 1)
    return t * t * (3 - 2 * t)


class Canvas:
    """Layers of one picture, all ``[S, S]`` float32 unless stated otherwise.

    Attributes:
        rng: randomness of this view.
        x: horizontal coordinate of each pixel in the case's frame (0 to 1 along each side).
        y: vertical coordinate of each pixel in the case's frame.
        pixel: side of a pixel in those coordinates.
        melanin: pigment of the skin, in the unit of `vocabulary.MELANIN`.
        density: ``[S, S, 3]`` optical density over bloodless, unpigmented skin.
        height: relief, in fractions of the frame.
        gloss: strength of the highlight.
        relief: how much of the skin's own fine relief is left.
        cover: ``[S, S, 3]`` premultiplied reflectance of what covers the skin.
        opacity: ``[S, S]`` share of the skin that it hides.
        lesion: how much of each pixel lies inside the outline of a lesion, 0 to 1; nothing is drawn from it.
    """

    def __init__(self, rng: np.random.Generator, x: np.ndarray, y: np.ndarray, pixel: float, melanin: float) -> None:
        self.rng, self.x, self.y, self.pixel, self.melanin = rng, x, y, pixel, melanin
        self.size = len(x)
        shape = x.shape
        self.density: np.ndarray = np.zeros((*shape, 3), np.float32)
        self.height: np.ndarray = np.zeros(shape, np.float32)
        self.gloss: np.ndarray = np.full(shape, 0.12, np.float32)
        self.relief: np.ndarray = np.ones(shape, np.float32)
        self.cover: np.ndarray = np.zeros((*shape, 3), np.float32)
        self.opacity: np.ndarray = np.zeros(shape, np.float32)
        self.lesion: np.ndarray = np.zeros(shape, np.float32)

    def noise(self, cells: float) -> np.ndarray:
        """Noise with ``cells`` blobs along a side, whatever the resolution (at most one blob in 1.5 pixels)."""
        return smooth_noise(self.rng, self.size, int(np.clip(cells, 2, self.size / 1.5)))

    def absorb(self, amount: np.ndarray, pigment: np.ndarray) -> None:
        """Add ``amount`` (``[S, S]``) of a pigment (``[3]`` optical density)."""
        self.density += amount[..., None] * pigment

    def lay_over(self, alpha: np.ndarray, color: tuple[float, float, float]) -> None:
        """Lay a material of reflectance ``color`` over what is there, with opacity ``alpha`` (``[S, S]``)."""
        alpha = np.clip(alpha, 0, 1)
        self.cover = self.cover * (1 - alpha[..., None]) + alpha[..., None] * np.array(color, np.float32)
        self.opacity = self.opacity + alpha * (1 - self.opacity)

    def stroke(self, lines: list[np.ndarray], width: float) -> np.ndarray:
        """``[S, S]`` coverage of poly-lines given in frame coordinates; ``width`` in pixels, may be below 1."""
        mask = np.zeros(self.x.shape, np.uint8)
        # x and y are affine in the pixel's row and column: invert them by solving for the 2 x 2 part.
        affine = np.array(
            [
                [self.x[0, 1] - self.x[0, 0], self.x[1, 0] - self.x[0, 0]],
                [self.y[0, 1] - self.y[0, 0], self.y[1, 0] - self.y[0, 0]],
            ]
        )
        inverse = np.linalg.inv(affine)
        origin = np.array([self.x[0, 0], self.y[0, 0]])
        points = [np.round((line - origin) @ inverse.T * 16).astype(np.int32) for line in lines]
        cv2.polylines(mask, points, False, 255, max(1, round(width)), cv2.LINE_AA, 4)
        return mask.astype(np.float32) * np.float32(min(width, 1.0) / 255)

    def compose(self, albedo: np.ndarray, light: np.ndarray, shade: np.ndarray) -> Image:
        """Turn the layers into linear-looking RGB in [0, 1].

        Args:
            albedo: ``[3]`` reflectance of bloodless, unpigmented skin.
            light: ``[2]`` direction of the light in the picture's plane.
            shade: ``[S, S]`` illumination.
        """
        skin = albedo * np.exp(-self.density)
        color = skin * (1 - self.opacity[..., None]) + self.cover
        scale = np.float32(0.5 / self.pixel)
        slope_x = cv2.Sobel(self.height, cv2.CV_32F, 1, 0, ksize=3, scale=0.25) * scale
        slope_y = cv2.Sobel(self.height, cv2.CV_32F, 0, 1, ksize=3, scale=0.25) * scale
        tilt = -(slope_x * light[0] + slope_y * light[1])
        lit = np.clip(1 + 0.55 * tilt, 0.45, 1.5) * shade
        glint = np.clip(tilt - 0.12, 0, 1.0) * self.gloss * shade
        return np.clip(color * lit[..., None] + 0.75 * glint[..., None], 0, 1)
