"""Smoke: every experiment runs one batch of everything on the embedded default."""

from pathlib import Path

import pytest

from siglip_med.commands.train import run
from tests.models.tiny import write_dual
from tests.short_runs import CONF, small_settings

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.fixture(scope="session")
def dual(tmp_path_factory):
    """Overrides that put two tiny towers in the place of the real ones."""
    return [f"model.{tower}={path}" for tower, path in write_dual(tmp_path_factory.mktemp("dual")).items()]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_smoke_every_experiment_runs_a_batch(experiment, cache, tmp_path, dual):
    pairs_towers = "dual_encoder" in (CONF / "experiment" / f"{experiment}.yaml").read_text()
    settings = small_settings(cache, tmp_path, f"experiment={experiment}", "debug=fdr", *(dual if pairs_towers else []))
    assert run(settings).metrics
    assert not list(Path(tmp_path).glob("checkpoints/*")), "a fast_dev_run keeps nothing"
