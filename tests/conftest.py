"""Fixtures of the whole suite: a small machine, no network, and the material that lies beside the checkout."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real tables, photographs and towers; a user's clone does not have it."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real material in {SHARED}, which is not part of the repository")
    return SHARED
