"""A short run of the embedded default, shared by the tests that look at what a run leaves."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

CONF = Path(__file__).resolve().parents[2] / "conf"
SMALL_DATA = ["data.source.n_images=260", "data.num_workers=0", "data.batch_size=16", "data.eval_batch_size=64"]
QUIET = ["callbacks.progress=null", "evaluation.bootstrap=20"]


def compose_config(*overrides: str, name: str = "train"):
    """The config of a command line, as the entry point would compose it."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(name, overrides=list(overrides))


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """One cache of rendered images for the whole session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def small_config(cache, tmp_path_factory):
    """Composes a training config on a few synthetic images, with its run folder in a temporary place."""

    def build(*overrides: str, folder: Path | None = None):
        folder = folder or tmp_path_factory.mktemp("run")
        places = [f"paths.output_dir={folder}", f"paths.cache_dir={cache}"]
        return compose_config(*SMALL_DATA, *QUIET, *places, *overrides)

    return build


@pytest.fixture(scope="session")
def short_run(small_config, tmp_path_factory):
    """Folder, metrics and objects of twelve steps of the layered loss."""
    from siglip_med.training.run import run

    folder = tmp_path_factory.mktemp("short_run")
    config = small_config(
        "experiment=layered",
        "trainer.max_steps=12",
        "trainer.log_every_n_steps=1",
        "callbacks.loss_diagnostics.every_n_steps=4",
        "callbacks.gradient_norm.every_n_steps=2",
        folder=folder,
    )
    metrics, objects = run(config)
    return folder, metrics, objects
