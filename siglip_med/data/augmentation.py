"""Training augmentation (albumentations): each drawn image has a random seed of its own, and skin keeps its tone.

The seed of an image is a number that the sampler draws from (seed, epoch, position in the epoch). Workers hold no
random state at all, so the same run gives the same images with any number of workers, and no two draws share a seed.
"""

import os
import random
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # before the import: it would ask the network for a newer one

import albumentations as A
import cv2

Probability = Annotated[float, Ge(0), Le(1)]
Strength = Annotated[float, Ge(0), Le(1)]

_BLENDS = np.linspace(0, 1, 33)[:, None]
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in Pillow and OpenCV
_CROSS = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])


def typology_angle(rgb: np.ndarray) -> np.ndarray:
    """Individual typology angle of colors: arctan((L* - 50) / b*) in degrees (Chardon et al. 1991).

    Args:
        rgb: ``[..., 3]`` sRGB in 0..255.

    Returns:
        ``[...]`` degrees, within about one (OpenCV's L*a*b* is a table); lighter skin has a larger angle.
    """
    flat = np.ascontiguousarray(rgb, dtype=np.float32).reshape(1, -1, 3) / 255
    lab = cv2.cvtColor(flat, cv2.COLOR_RGB2LAB)
    angle = np.degrees(np.arctan2(lab[..., 0] - 50, lab[..., 2]))
    return angle.reshape(np.shape(rgb)[:-1])


class Rotation(A.ImageOnlyTransform):
    """A turn about the center, corners filled by reflection; bilinear.

    `albumentations.Rotate` does the same in twice the time: OpenCV warps four channels faster than three.

    Args:
        limit: Largest angle in degrees.
        p: Probability.
    """

    class InitSchema(A.ImageOnlyTransform.InitSchema):
        """What albumentations checks the arguments against."""

        limit: Annotated[float, Ge(0), Le(180)]

    def __init__(self, limit: float, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.limit = limit

    def get_params(self) -> dict[str, Any]:
        """Draws the angle in degrees, anticlockwise."""
        return {"angle": self.py_random.uniform(-self.limit, self.limit)}

    def apply(self, img: np.ndarray, angle: float, **params: Any) -> np.ndarray:
        """``[H, W, 3]`` uint8 to the same."""
        height, width = img.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
        padded = cv2.cvtColor(img, cv2.COLOR_RGB2RGBA)
        turned = cv2.warpAffine(padded, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        return cv2.cvtColor(turned, cv2.COLOR_RGBA2RGB)


class ColorShift(A.ImageOnlyTransform):
    """Brightness, contrast, saturation and hue as one 3 x 4 matrix, which moves the skin tone by a limited angle only.

    The factors mean what they mean in torchvision's and albumentations' ColorJitter, but the product of the four is
    applied in one pass and rounded once (Haeberli 1993, "Matrix operations for image processing"). Where the mean
    color of the middle of the photograph would move by more than the limit, the matrix is blended with the identity
    until it does not.

    Args:
        brightness: Largest relative change of the brightness.
        contrast: Largest relative change of the contrast, about the mean gray of the middle.
        saturation: Largest relative change of the saturation.
        hue: Largest turn about the gray axis, as a share of the circle.
        max_tone_shift: Degrees of ITA; None: no limit.
        p: Probability.
    """

    class InitSchema(A.ImageOnlyTransform.InitSchema):
        """What albumentations checks the arguments against."""

        brightness: Strength
        contrast: Strength
        saturation: Strength
        hue: Strength
        max_tone_shift: Annotated[float, Ge(0)] | None

    def __init__(
        self,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: float,
        max_tone_shift: float | None,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.largest = (brightness, contrast, saturation, hue)
        self.max_tone_shift = max_tone_shift

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draws the four changes and makes the ``[3, 4]`` matrix for this image."""
        brightness, contrast, saturation, hue = (self.py_random.uniform(-size, size) for size in self.largest)
        color = _middle_color(data["image"])
        matrix = color_matrix(brightness, contrast, saturation, hue, float(color @ _LUMA))
        if self.max_tone_shift is not None:
            identity = np.eye(3, 4)
            after = matrix @ np.append(color, 1)
            angles = typology_angle(np.clip(color + _BLENDS * (after - color), 0, 255))
            beyond = np.abs(angles - angles[0]) > self.max_tone_shift
            if beyond.any():
                matrix = identity + _BLENDS[np.argmax(beyond) - 1, 0] * (matrix - identity)
        return {"matrix": matrix}

    def apply(self, img: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        """``[H, W, 3]`` uint8 to the same."""
        return cv2.transform(img, matrix)


def color_matrix(brightness: float, contrast: float, saturation: float, hue: float, gray: float) -> np.ndarray:
    """``[3, 4]`` matrix on (R, G, B, 1) that turns the hue, then saturation, contrast (about gray) and brightness."""
    angle = 2 * np.pi * hue
    # Rodrigues' formula about (1, 1, 1) / sqrt(3)
    turn = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) / np.sqrt(3) * _CROSS
    linear = ((1 + saturation) * np.eye(3) - saturation * _LUMA) @ turn
    offset = np.full((3, 1), -contrast * gray)
    return (1 + brightness) * np.hstack([(1 + contrast) * linear, offset])


class AugmentationPipeline:
    """Augmentation for one image size; holds no random state between calls."""

    def __init__(self, transforms: list[A.BasicTransform]) -> None:
        self._compose = A.Compose(transforms)

    def __call__(self, pixels: np.ndarray, seed: int) -> np.ndarray:
        """Augments ``[size, size, 3]`` uint8 with the random numbers of ``seed`` alone."""
        # Not set_random_seed: that gives every transform the same numbers, so that they come and go together.
        self._compose.set_random_state(np.random.Generator(np.random.Philox(key=seed)), random.Random(seed))
        return self._compose(image=pixels)["image"]


@dataclass(frozen=True)
class Augmentation:
    """How strongly training images are varied; 0 switches a step off.

    Args:
        horizontal_flip: Probability.
        vertical_flip: Probability.
        crop: Share of the area that the random crop may cut away; the rest is resized to the full size.
        crop_ratio: Largest aspect ratio of that crop, and 1 over the smallest.
        rotation: Largest angle in degrees; the corners are filled by reflection.
        rotation_probability: How often it is turned.
        brightness: Largest relative change.
        contrast: Largest relative change.
        saturation: Largest relative change.
        hue: Largest shift, as a share of the color circle.
        color_probability: How often the four above are drawn.
        max_tone_shift: Degrees of ITA that the skin may move by. The narrowest type is 13 degrees wide, so below 6.5
            skin from the middle of any type stays in it; the default leaves a degree for rounding. None: no limit.
        blur: Largest standard deviation of the Gaussian blur, as a share of the side.
        blur_probability: How often it is blurred.
        noise: Largest standard deviation of the Gaussian noise, as a share of the pixel range.
        noise_probability: How often noise is added.
    """

    horizontal_flip: Probability = 0.0
    vertical_flip: Probability = 0.0
    crop: Annotated[float, Ge(0), Le(0.95)] = 0.0
    crop_ratio: Annotated[float, Ge(1), Le(4)] = 1.0
    rotation: Annotated[float, Ge(0), Le(180)] = 0.0
    rotation_probability: Probability = 0.0
    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.0
    color_probability: Probability = 0.0
    max_tone_shift: Annotated[float, Ge(0)] | None = 5.5
    blur: Annotated[float, Ge(0), Le(0.1)] = 0.0
    blur_probability: Probability = 0.0
    noise: Strength = 0.0
    noise_probability: Probability = 0.0

    def pipeline(self, size: int) -> AugmentationPipeline:
        """The steps that are switched on, for images of ``size`` pixels per side."""
        steps: list[A.BasicTransform] = []
        if self.crop > 0:
            ratio = (1 / self.crop_ratio, self.crop_ratio)
            steps.append(A.RandomResizedCrop((size, size), scale=(1 - self.crop, 1), ratio=ratio, p=1))
        if self.horizontal_flip > 0:
            steps.append(A.HorizontalFlip(p=self.horizontal_flip))
        if self.vertical_flip > 0:
            steps.append(A.VerticalFlip(p=self.vertical_flip))
        if self.rotation > 0 and self.rotation_probability > 0:
            steps.append(Rotation(self.rotation, p=self.rotation_probability))
        color = (self.brightness, self.contrast, self.saturation, self.hue)
        if any(color) and self.color_probability > 0:
            steps.append(ColorShift(*color, self.max_tone_shift, p=self.color_probability))
        if self.blur > 0 and self.blur_probability > 0:
            sigma = (0.0, self.blur * size)
            steps.append(A.GaussianBlur(blur_limit=0, sigma_limit=sigma, p=self.blur_probability))
        if self.noise > 0 and self.noise_probability > 0:
            # One value for all channels: a third of the time, and grain in brightness is what cameras leave.
            steps.append(A.GaussNoise(std_range=(0, self.noise), per_channel=False, p=self.noise_probability))
        return AugmentationPipeline(steps)


def _middle_color(image: np.ndarray) -> np.ndarray:
    """``[3]`` mean color of the middle of a photograph, where the skin is rather than the background."""
    height, width = image.shape[:2]
    step = max(height // 32, 1)
    middle = image[height // 4 : height - height // 4 : step, width // 4 : width - width // 4 : step]
    return np.asarray(cv2.mean(np.ascontiguousarray(middle))[:3])
