"""Builds the parts of a run from its config: the same for training, for evaluation and for a restored run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from siglip_med.conditions import (
    ConditionSet,
    dissimilarity,
    evaluation_prompts,
    load_conditions,
    training_prompts,
)
from siglip_med.config import instantiate
from siglip_med.data.datamodule import DataModule
from siglip_med.errors import UserError
from siglip_med.evaluation import Predictions
from siglip_med.models import TwoTower, checkpoint_payload
from siglip_med.training.features import FeatureDataModule
from siglip_med.training.inference import predict_split


@dataclass
class Parts:
    """A model, its data, and the geometry and sentences of the conditions in it."""

    config: DictConfig
    model: TwoTower
    datamodule: DataModule | FeatureDataModule
    conditions: ConditionSet
    dissimilarity: np.ndarray
    training_prompts: tuple[tuple[str, ...], ...]
    evaluation_prompts: tuple[tuple[str, ...], ...]

    def predict(self, split: str) -> Predictions:
        """Scores one split (``val`` or ``test``) with the model as it is."""
        return predict_split(
            self.model,
            self.evaluation_prompts,
            self.datamodule,
            self.conditions,
            self.dissimilarity,
            split,
        )

    def payload(self) -> dict[str, Any]:
        """What a checkpoint of this run says besides its weights."""
        return checkpoint_payload(
            self.model,
            config=plain_config(self.config),
            conditions=self.conditions.names,
            codes=self.conditions.codes,
            prompts=self.evaluation_prompts,
            split_hash=self.datamodule.split.hash,
        )

    def check_split(self, split_hash: str, checkpoint: Path) -> None:
        """Makes sure that no image that a checkpoint trained on is about to be tested.

        Raises:
            UserError: the split differs from the checkpoint's.
        """
        if self.datamodule.split.hash != split_hash:
            raise UserError(
                f"{checkpoint}: it was trained on split {split_hash[:12]}, but the data now splits into "
                f"{self.datamodule.split.hash[:12]}; give the run's own split with data.split_file=…/split.csv"
            )


def plain_config(config: DictConfig) -> dict[str, Any]:
    """The resolved config as plain types, for checkpoints and loggers."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def flat_config(config: DictConfig) -> dict[str, str | int | float | bool]:
    """The resolved config as ``a.b.c → value``, for a table of hyper-parameters; paths and callbacks left out."""

    def leaves(path: str, node: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(node, Mapping):
            for key, value in node.items():
                yield from leaves(f"{path}.{key}" if path else str(key), value)
        elif isinstance(node, bool | int | float | str):
            yield path, node
        elif isinstance(node, list):
            yield path, ", ".join(map(str, node))

    left_out = {"paths", "callbacks", "logger"}
    return {path: value for path, value in leaves("", plain_config(config)) if path.split(".", 1)[0] not in left_out}


def build_data(config: DictConfig, model: TwoTower) -> DataModule:
    """Reads, splits and caches the data for a model's image size."""
    datamodule = instantiate(config.data, image=model.image_spec, seed=config.seed)
    datamodule.prepare_data()
    datamodule.setup("fit")
    return datamodule


def build_parts(config: DictConfig, device: torch.device, model: TwoTower | None = None) -> Parts:
    """Instantiates a config's model (or takes the given one), its data and its conditions.

    Args:
        config: of a fine-tuning run.
        device: where the model predicts, and computes the features of a frozen tower.
        model: a trained model in place of the config's.

    Raises:
        UserError: the data, the codes or the model cannot be had as the config says.
    """
    pl.seed_everything(config.seed, workers=True, verbose=False)
    model = (instantiate(config.model) if model is None else model).to(device)
    datamodule = build_data(config, model)
    conditions = load_conditions(datamodule.conditions, codes=config.conditions.codes)
    distances = dissimilarity(
        conditions,
        geometry=config.conditions.geometry,
        measure=config.conditions.measure,
        labels=datamodule.table.labels[datamodule.split.train],
        weights=config.conditions.weights,
    )
    if config.get("features") is not None:
        datamodule = instantiate(config.features, datamodule=datamodule, model=model)
    return Parts(
        config,
        model,
        datamodule,
        conditions,
        distances,
        training_prompts(conditions),
        evaluation_prompts(conditions),
    )
