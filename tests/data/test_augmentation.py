import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from siglip_med.data.augmentation import (
    Augmentation,
    ColorShift,
    Rotation,
    color_matrix,
    typology_angle,
)
from tests.data.test_images import photograph

CONFIGS = Path(__file__).parents[2] / "conf" / "augmentation"
TONE_BORDERS = (55.0, 41.0, 28.0, 10.0, -30.0)
"""ITA in degrees that separates very light, light, intermediate, tan, brown and dark skin, taken as Fitzpatrick types
I to VI (Chardon et al. 1991, Int. J. Cosmet. Sci. 13; Kinyanjui et al. 2020, MICCAI)."""
MIDDLES = {1: 62.0, 2: 48.0, 3: 34.5, 4: 19.0, 5: -10.0, 6: -45.0}  # degrees: the middle of each Fitzpatrick type
CHROMA = {1: (11, 14), 2: (12, 16), 3: (12, 18), 4: (12, 19), 5: (12, 17), 6: (9, 12)}  # a*, b* of such skin


def configured(name: str) -> Augmentation:
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert settings.pop("_target_") == "siglip_med.data.augmentation.Augmentation"
    return Augmentation(**settings)


TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def srgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 with the D65 white of sRGB, from the definitions."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = linear @ TO_XYZ.T / WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """The way back, for colors that are not nearly black."""
    middle = (lab[0] + 16) / 116
    xyz = np.array([middle + lab[1] / 500, middle, middle - lab[2] / 200]) ** 3 * WHITE
    linear = np.linalg.inv(TO_XYZ) @ xyz
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def angle(rgb: np.ndarray) -> float:
    lightness, _, yellow = srgb_to_lab(np.asarray(rgb, dtype=float))
    return float(np.degrees(np.arctan2(lightness - 50, yellow)))


def skin_color(tone: int) -> np.ndarray:
    """sRGB of skin in the middle of a type."""
    red_green, yellow = CHROMA[tone]
    return lab_to_srgb(np.array([50 + yellow * np.tan(np.radians(MIDDLES[tone])), red_green, yellow]))


def type_of(degrees: float) -> int:
    return 1 + sum(degrees < border for border in TONE_BORDERS)


def skin_patch(tone: int, size: int = 64) -> np.ndarray:
    texture = np.random.default_rng(tone).normal(0, 5, size=(size, size, 1))
    return np.clip(np.rint(skin_color(tone) + texture), 0, 255).astype(np.uint8)


def test_typology_angle_follows_the_definition() -> None:
    colors = np.random.default_rng(0).integers(0, 256, size=(500, 3))
    colors = colors[srgb_to_lab(colors)[:, 2] > 5]  # where b* is near 0 the angle jumps
    expected = [angle(color) for color in colors]
    np.testing.assert_allclose(typology_angle(colors), expected, atol=1.2)
    assert typology_angle(np.zeros((4, 5, 3))).shape == (4, 5)
    for tone, middle in MIDDLES.items():
        assert type_of(middle) == tone
        assert float(typology_angle(skin_color(tone))) == pytest.approx(middle, abs=1.0)


@pytest.mark.parametrize("tone", MIDDLES)
def test_the_default_never_changes_a_skins_type(tone: int) -> None:
    pipeline, patch = configured("default").pipeline(64), skin_patch(tone)
    assert type_of(angle(patch.mean(axis=(0, 1)))) == tone
    found = Counter(type_of(angle(pipeline(patch, seed).mean(axis=(0, 1)))) for seed in range(400))
    assert set(found) == {tone}, found


def test_the_strong_one_does() -> None:
    pipeline, patch = configured("strong").pipeline(64), skin_patch(3)
    assert len({type_of(angle(pipeline(patch, seed).mean(axis=(0, 1)))) for seed in range(200)}) > 1


@pytest.mark.parametrize("background", [0, 255])
def test_the_tone_limit_holds_beside_a_background(background: int) -> None:
    image = np.full((64, 64, 3), background, dtype=np.uint8)
    image[12:52, 12:52] = skin_patch(4)[12:52, 12:52]
    step = ColorShift(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1, max_tone_shift=6.5)
    before = angle(image[12:52, 12:52].mean(axis=(0, 1)))
    step.set_random_seed(0)
    shifts = [angle(step(image=image)["image"][12:52, 12:52].mean(axis=(0, 1))) - before for _ in range(200)]
    assert np.abs(shifts).max() < 7.5
    assert np.std(shifts) > 2.0  # it does change something


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("change", [-0.3, 0.2])
def test_each_factor_means_what_it_means_in_the_library(name: str, change: float) -> None:
    import albumentations as A

    image = np.tile(photograph(16, 16) // 2 + 50, (4, 4, 1))  # its middle has the mean gray of the whole
    factors = {key: (1.0 + change * (key == name),) * 2 for key in ("brightness", "contrast", "saturation")}
    expected = A.ColorJitter(**factors, hue=(0, 0), p=1)(image=image)["image"]
    changes = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0} | {name: change}
    gray = float((image @ [0.299, 0.587, 0.114]).mean())
    matrix = color_matrix(**changes, gray=gray)
    found = np.clip(image @ matrix[:, :3].T + matrix[:, 3], 0, 255)
    assert np.abs(found - expected).max() < 2.5
    assert np.abs(found - image).mean() > 2
    step = ColorShift(0, 0, 0, 0, max_tone_shift=None)
    step.get_params_dependent_on_data = lambda params, data: {"matrix": matrix}  # type: ignore[method-assign]
    assert np.abs(step(image=image)["image"] - found).max() < 1  # OpenCV rounds in fixed point


def test_hue_turns_about_the_gray_axis() -> None:
    matrix = color_matrix(0, 0, 0, 1 / 3, gray=99)[:, :3]
    np.testing.assert_allclose(matrix @ [255, 0, 0], [0, 255, 0], atol=1e-9)
    np.testing.assert_allclose(matrix @ [80, 80, 80], [80, 80, 80], atol=1e-9)
    np.testing.assert_allclose(color_matrix(0, 0, 0, 0, gray=99), np.eye(3, 4), atol=1e-12)


def test_changes_are_drawn_over_the_whole_range() -> None:
    step, image = ColorShift(0.3, 0, 0, 0, max_tone_shift=None), photograph()
    step.set_random_seed(0)
    scales = [step.get_params_dependent_on_data({}, {"image": image})["matrix"][0, 0] for _ in range(500)]
    assert 0.7 <= min(scales) < 0.72
    assert 1.28 < max(scales) <= 1.3
    assert np.mean(scales) == pytest.approx(1, abs=0.03)


def test_real_photographs_keep_their_tone(shared: Path) -> None:
    pipeline = Augmentation(brightness=0.15, contrast=0.15, saturation=0.15, hue=0.015, color_probability=1).pipeline(
        64
    )
    shifts = []
    for path in sorted((shared / "data" / "fitzpatrick17k" / "images").glob("*.jpg"))[::100]:
        image = np.asarray(Image.open(path).convert("RGB").resize((64, 64)))
        changed = pipeline(image, len(shifts))
        shifts.append(angle(changed[16:48, 16:48].mean(axis=(0, 1))) - angle(image[16:48, 16:48].mean(axis=(0, 1))))
    assert np.abs(shifts).max() < 7.5
    assert np.abs(shifts).mean() > 1.0


@pytest.mark.parametrize("name", ["light", "default", "strong"])
def test_an_image_depends_on_its_stream_alone(name: str) -> None:
    image = photograph(64, 64)
    first, second = configured(name).pipeline(64), configured(name).pipeline(64)
    forwards = [first(image, seed).tobytes() for seed in range(40)]
    backwards = [second(image, seed).tobytes() for seed in reversed(range(40))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 40


def test_leaves_the_global_generators_alone() -> None:
    random.seed(0)
    state, numpy_state = random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    configured("strong").pipeline(32)(photograph(32, 32), 1)
    assert random.getstate() == state
    assert np.random.get_state()[1].tobytes() == numpy_state  # noqa: NPY002


def test_steps_come_and_go_independently() -> None:
    image = photograph(16, 16)
    looks = {
        (False, False): image,
        (True, False): image[:, ::-1],
        (False, True): image[::-1],
        (True, True): image[::-1, ::-1],
    }
    names = {look.tobytes(): name for name, look in looks.items()}
    pipeline = Augmentation(horizontal_flip=0.5, vertical_flip=0.5).pipeline(16)
    counts = Counter(names[pipeline(image, seed).tobytes()] for seed in range(2000))
    assert all(430 < counts[name] < 570 for name in looks), counts


def test_none_changes_nothing() -> None:
    image = photograph(40, 40)
    pipeline = configured("none").pipeline(40)
    assert all(np.array_equal(pipeline(image, seed), image) for seed in range(20))


def test_light_adds_no_color() -> None:
    pipeline, image = configured("light").pipeline(32), np.full((32, 32, 3), (201, 150, 120), dtype=np.uint8)
    assert all(np.array_equal(pipeline(image, seed), image) for seed in range(50))


@pytest.mark.parametrize(
    "settings",
    [
        {"horizontal_flip": 1},
        {"vertical_flip": 1},
        {"crop": 0.5},
        {"crop_ratio": 2, "crop": 0.2},
        {"rotation": 40, "rotation_probability": 1},
        *({name: 0.3, "color_probability": 1} for name in ("brightness", "contrast", "saturation", "hue")),
        {"blur": 0.05, "blur_probability": 1},
        {"noise": 0.2, "noise_probability": 1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_each_step_alone(settings: dict[str, float]) -> None:
    image = photograph(48, 48)
    pipeline = Augmentation(**settings).pipeline(48)
    results = [pipeline(image, seed) for seed in range(10)]
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in results)
    assert sum(not np.array_equal(result, image) for result in results) >= 8
    off = Augmentation(**{name: 0 for name in settings if name.endswith("probability")}).pipeline(48)
    np.testing.assert_array_equal(off(image, 0), image)


def test_rotation_is_the_librarys() -> None:
    import albumentations as A
    import cv2

    ours, image = Rotation(40), photograph(60, 60)
    for angle in (-33.0, 0.0, 12.5, 40.0):
        theirs = A.Rotate((angle, angle), border_mode=cv2.BORDER_REFLECT_101, p=1)(image=image)["image"]
        assert np.abs(ours.apply(image, angle).astype(int) - theirs).mean() < 0.3
    ours.set_random_seed(0)
    angles = [ours.get_params()["angle"] for _ in range(500)]
    assert -40 <= min(angles) < -38
    assert 38 < max(angles) <= 40


def test_rotation_leaves_no_black_corner() -> None:
    image = np.full((48, 48, 3), 180, dtype=np.uint8)
    pipeline = Augmentation(rotation=45, rotation_probability=1).pipeline(48)
    assert all(pipeline(image, seed).min() == 180 for seed in range(20))
