"""How tests make settings: as the entry point would, on few images and in a temporary place."""

from pathlib import Path

import cv2
import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from siglip_med.commands import train
from siglip_med.core.config import typed

CONF = Path(__file__).resolve().parents[1] / "conf"
NAMES = ("Psoriasis", "Eczema", "Acne", "Melanoma", "Vitiligo", "Urticaria", "Rosacea", "Impetigo")
SMALL = [
    "data.source.n_images=260",
    "data.num_workers=0",
    "data.batch_size=16",
    "data/sampling=natural",
    "callbacks.progress=null",
    "evaluation.bootstrap=20",
]


def compose_config(*overrides: str, name: str = "train") -> DictConfig:
    """The config of a command line."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(name, overrides=list(overrides))


def two_steps(folder: Path, *overrides: str) -> train.Settings:
    """Settings of a training run of two steps on data of any kind, below ``folder``."""
    places = (f"paths.output_dir={folder / 'run'}", f"paths.cache_dir={folder / 'cache'}")
    short = ("data.num_workers=0", "data.batch_size=8", "trainer.max_steps=2")
    quiet = ("callbacks.progress=null", "evaluation.bootstrap=20")
    return typed(compose_config(*overrides, *places, *short, *quiet), train.Settings)


def small_settings(cache: Path, folder: Path, *overrides: str) -> train.Settings:
    """Settings of a training run on a few synthetic images."""
    places = (f"paths.output_dir={folder}", f"paths.cache_dir={cache}")
    return typed(compose_config(*SMALL, *places, *overrides), train.Settings)


def photographs(folder: Path, count: int, seed: int) -> list[str]:
    """Unequal JPEGs of smooth noise, two a patient, and their rows."""
    random, rows = np.random.default_rng(seed), ["image,diagnosis,patient,skin_type"]
    folder.mkdir()
    for number in range(count):
        height, width = random.integers(60, 400, 2)
        coarse = random.integers(40, 255, (5, 5, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.jpg"), cv2.resize(coarse, (int(width), int(height))))
        rows.append(f"{number}.jpg,{NAMES[number // 2 % len(NAMES)]},p{number // 2},{1 + number // 2 % 6}")
    return rows
