"""Runs under Weights & Biases and MLflow, offline: terms, coefficients and validation metrics arrive."""

import sys

import pytest

from siglip_med.commands.train import run
from siglip_med.core.errors import UserError
from siglip_med.training.loggers import mlflow_logger, wandb_logger
from tests.short_runs import small_settings

SHORT = ["experiment=published", "trainer.max_steps=4", "trainer.log_every_n_steps=1"]
EXPECTED = {"loss/total", "loss_weighted/icd", "coefficient/alpha", "val/r_at_5", "val/loss"}


def test_mlflow_holds_terms_coefficients_and_validation(cache, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    run(small_settings(cache, tmp_path, *SHORT, "logger=mlflow"))
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("siglip-med").experiment_id])
    assert set(found.data.metrics) >= EXPECTED
    assert found.data.params["loss.terms.icd.scale"] == "5.0"
    steps = [metric.step for metric in client.get_metric_history(found.info.run_id, "loss/total")]
    assert len(steps) == len(set(steps)) == 4


def test_wandb_offline_holds_terms_coefficients_and_validation(cache, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    result = run(small_settings(cache, tmp_path, *SHORT, "logger=wandb", "logger.wandb.offline=true"))
    summary = dict(result.trainer.logger.experiment.summary)
    wandb.finish()
    assert set(summary) >= EXPECTED
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb")), "the run lies in its folder, nothing was sent"


@pytest.mark.parametrize(
    ("build", "package"),
    [
        (lambda: wandb_logger("somewhere", "p", "n"), "wandb"),
        (lambda: mlflow_logger("e", "n", "sqlite:///x.db"), "mlflow"),
    ],
)
def test_a_missing_package_is_one_line(build, package, monkeypatch):
    for name in ("wandb", "mlflow"):
        monkeypatch.setattr(f"lightning.pytorch.loggers.{name}._{name.upper()}_AVAILABLE", False)
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"logger={package} needs {package}: pip install"):
        build()
