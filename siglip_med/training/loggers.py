"""Loggers of other tools, each an extra: what they need is said in one line where it is missing."""

from typing import TYPE_CHECKING

from siglip_med.core.errors import UserError
from siglip_med.core.extras import missing

if TYPE_CHECKING:
    from lightning.pytorch.loggers import MLFlowLogger, WandbLogger


def wandb_logger(save_dir: str, project: str, name: str, offline: bool = False) -> "WandbLogger":
    """Lightning's logger for Weights & Biases.

    Args:
        save_dir: folder of its files; with ``offline`` nothing leaves it.
        project: on the server.
        name: of the run.
        offline: whether to keep everything local, for ``wandb sync`` later.

    Raises:
        UserError: the package is missing.
    """
    from lightning.pytorch.loggers import WandbLogger

    try:
        return WandbLogger(save_dir=save_dir, project=project, name=name, offline=offline)
    except ModuleNotFoundError as error:
        raise UserError(missing("wandb", "logger=wandb", "wandb")) from error


def mlflow_logger(experiment_name: str, run_name: str, tracking_uri: str) -> "MLFlowLogger":
    """Lightning's logger for MLflow.

    Args:
        experiment_name: runs of one experiment stand side by side.
        run_name: of the run.
        tracking_uri: a server, or a local store such as ``sqlite:///folder/mlflow.db``.

    Raises:
        UserError: the package is missing.
    """
    from lightning.pytorch.loggers import MLFlowLogger

    try:
        return MLFlowLogger(experiment_name=experiment_name, run_name=run_name, tracking_uri=tracking_uri)
    except ModuleNotFoundError as error:
        raise UserError(missing("mlflow", "logger=mlflow", "mlflow")) from error
