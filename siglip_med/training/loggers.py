"""The loggers of a run that is resumed, and those of other tools, each an extra."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from siglip_med.core.errors import UserError
from siglip_med.core.extras import missing
from siglip_med.core.files import write_text
from siglip_med.core.outside import printable

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
        return WandbLogger(save_dir=save_dir, project=project, name=printable(name), offline=offline)
    except ModuleNotFoundError as error:
        raise UserError(missing("wandb", "logger=wandb", "wandb")) from error


def mlflow_logger(experiment_name: str, run_name: str, tracking_uri: str) -> "MLFlowLogger":
    """Lightning's logger for MLflow.

    Args:
        experiment_name: runs of one experiment are shown side by side.
        run_name: of the run.
        tracking_uri: a server, or a local store such as ``sqlite:///folder/mlflow.db``.

    Raises:
        UserError: the package is missing.
    """
    from lightning.pytorch.loggers import MLFlowLogger

    try:
        return MLFlowLogger(experiment_name=experiment_name, run_name=printable(run_name), tracking_uri=tracking_uri)
    except ModuleNotFoundError as error:
        raise UserError(missing("mlflow", "logger=mlflow", "mlflow")) from error


def take_back(loggers: Sequence[Logger], step: int) -> None:
    """Takes back what TensorBoard and CSV logs hold from a step on; other loggers keep what they have.

    TensorBoard leaves the events in their file and shows none of them (``purge_step`` of its ``SummaryWriter``).

    Args:
        loggers: of a run that is resumed, none of which has written yet.
        step: the first step that will be logged again.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger._kwargs["purge_step"] = step
            (Path(logger.log_dir) / "hparams.yaml").unlink(missing_ok=True)  # it would not be written again
        elif isinstance(logger, CSVLogger):
            _keep_rows_before(logger, step)


def _keep_rows_before(logger: CSVLogger, step: int) -> None:
    path = Path(logger.log_dir) / "metrics.csv"
    if not path.is_file():
        return
    first, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    header, *rows = csv.reader([first, *lines])
    place = header.index("step") if "step" in header else None
    kept = [
        line
        for line, row in zip(lines, rows, strict=True)
        if len(row) == len(header) and place is not None and int(row[place]) < step
    ]
    writer: Any = logger.experiment  # it removes the file when it is made
    writer.metrics_keys = list(header)
    write_text(path, first + "".join(kept))
