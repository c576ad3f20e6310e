"""Fixtures of the whole suite: a small machine, no network, and the material that lies beside the checkout."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from siglip_med.commands.train import Result

SHARED = Path(__file__).resolve().parents[2] / "shared"
LONG = (
    "test_real_side", "docs/test_cookbook", "sweeps/test_jobs", "models/test_siglip_base", "export/test_export",
    "runs/test_derived", "runs/test_resume", "runs/test_ensembles", "commands/test_two_processes", "commands/test_tune",
    "reliability/test_kills", "core/test_trust",
)  # fmt: skip
"""Files that take the longest, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that no process waits for one at the end; tests of a GPU wait for one."""
    place = {Path(__file__).parent / f"{name}.py": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU: torch.cuda.is_available() is false here"))


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _features_in_float32() -> "Iterator[None]":
    """What tests compare is the same on every CPU: without this, those with bfloat16 would compute features in it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            patch.setattr(torch.cpu, name, lambda: False, raising=False)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real tables, photographs and towers; a user's clone does not have it."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real material in {SHARED}, which is not part of the repository")
    return SHARED


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of rendered images for the whole session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def short_run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> "Result":
    """Twelve steps of the layered loss on the embedded default: what the tests of a run's results look at."""
    from siglip_med.commands.train import run
    from tests.short_runs import small_settings

    folder = tmp_path_factory.mktemp("short_run")
    settings = small_settings(
        cache,
        folder,
        "experiment=published_final",
        "trainer.max_steps=12",
        "trainer.log_every_n_steps=1",
        "callbacks.loss_diagnostics.every_n_steps=4",
        "callbacks.gradient_norm.every_n_steps=2",
    )
    return run(settings)
