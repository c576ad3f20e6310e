"""Trains a small base on image–caption pairs, from nothing; from the root of the checkout."""

from dataclasses import dataclass
from pathlib import Path

import hydra
import lightning.pytorch as pl
from omegaconf import DictConfig
from rich.console import Console

from siglip_med.core.config import instantiate, typed
from siglip_med.core.errors import UserError, fail
from siglip_med.data import DataModule
from siglip_med.models import JointTwoTower, checkpoint_payload
from siglip_med.runs.components import build_data, build_model
from siglip_med.runs.cross_checks import check_references
from siglip_med.runs.session import fit, last_metrics, resume_point, session
from siglip_med.runs.settings import RunSettings
from siglip_med.training.checkpointing import is_trial
from tools.pretraining.base import write_pretrained, write_untrained
from tools.pretraining.captions import CaptionModule, CaptionPool

METRICS = ("val/loss", "val/caption_r_at_1")


class Settings(RunSettings):
    """Top level of ``tools/pretraining/conf/pretrain.yaml``.

    Attributes:
        export_to: the folder that the trained towers are written to, or None.
    """

    export_to: str | None


@dataclass(frozen=True)
class Result:
    """The last validation metrics, what was built, and the folder of the base, if it was written."""

    metrics: dict[str, float]
    model: JointTwoTower
    data: DataModule
    module: CaptionModule
    trainer: pl.Trainer
    base: Path | None


def run(settings: Settings) -> Result:
    """Trains both towers on captions and, if asked, writes the model folder.

    Raises:
        UserError: a setting or the data is wrong.
    """
    check_references(settings, METRICS)
    point = resume_point(settings)
    trainer: pl.Trainer = instantiate(settings.trainer, callbacks=settings.callbacks, logger=settings.logger)
    loss, optimizer = instantiate(settings.loss), instantiate(settings.optimizer)
    with session(settings, trainer, point) as begin:
        write_untrained(Path(settings.model["path"]), settings.seed)
        model = build_model(settings.model, settings.seed)
        if not isinstance(model, JointTwoTower):
            raise UserError("model: pretraining makes a base with both towers; take model=siglip_tiny")
        data = build_data(settings.data, model, settings.seed)
        captions = CaptionPool(data.table.frame["description"].tolist(), model.tokenize)
        module = CaptionModule(model, loss, optimizer, captions, settings.seed)
        module.checkpoint_payload = checkpoint_payload(
            model,
            config=settings.model_dump(),
            conditions=data.conditions,
            codes=(),
            prompts=(),
            split_hash=data.split.hash,
            provenance=data.table.provenance,
        )
        begin()
        fit(trainer, module, data, point, settings)
    metrics = last_metrics(trainer)
    base = None
    if settings.export_to is not None and trainer.is_global_zero and not is_trial(trainer):
        base = Path(settings.export_to)
        write_pretrained(model, base)
    return Result(metrics, model, data, module, trainer, base)


def show(result: Result) -> None:
    """Says where the base went."""
    if result.base is not None:
        Console().print(f"wrote the base to {result.base}", soft_wrap=True, highlight=False, markup=False)


@hydra.main(version_base="1.3", config_path="conf", config_name="pretrain")
def main(config: DictConfig) -> None:
    """Runs the command line; a `UserError` is one line and exit status 2."""
    try:
        show(run(typed(config, Settings)))
    except UserError as error:
        fail(error)


if __name__ == "__main__":
    main()
