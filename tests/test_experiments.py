"""Smoke: every experiment runs one batch of everything on the embedded default."""

from pathlib import Path

import pytest

from siglip_med.training.run import run
from tests.training.conftest import CONF

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_smoke_every_experiment_runs_a_batch(experiment, small_config, towers):
    config = small_config(f"experiment={experiment}", "debug=fdr", *towers(experiment))
    metrics, _ = run(config)
    assert metrics
    assert not list(Path(config.paths.output_dir).glob("checkpoints/*")), "a fast_dev_run keeps nothing"
