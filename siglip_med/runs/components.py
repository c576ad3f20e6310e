"""Builds what a run consists of from its settings: the same for training and for a run that is evaluated again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from hydra.utils import get_class, get_object

from siglip_med.conditions import (
    ConditionSet,
    dissimilarity,
    evaluation_prompts,
    load_conditions,
    training_prompts,
    wording_notes,
)
from siglip_med.core.config import Node, instantiate, shipped_targets
from siglip_med.core.errors import UserError
from siglip_med.core.trust import Builders, builders, vouched
from siglip_med.data import DataModule, LabeledData
from siglip_med.data.joining import HOW_ELSE
from siglip_med.data.sampling import SamplingStrategy
from siglip_med.data.source import Source
from siglip_med.data.splitting import Splitter
from siglip_med.data.splitting.report import SplitReport
from siglip_med.models import PromptEnsemble, TwoTower, check_prompts
from siglip_med.runs.settings import ConditionSettings
from siglip_med.training.features import FeatureDataModule, kept_where_frozen

Build = Callable[..., Any]
"""Builds an object from a node and from arguments of the program."""


def data_builders(trust: Sequence[str] = ()) -> Builders:
    """What stored ``data`` and ``features`` nodes may build: the parts that the package's own configs name.

    Args:
        trust: code of one's own that they may build besides, as in `siglip_med.core.trust.vouched`.
    """
    return {**_shipped_builders(), **vouched(trust)}


@cache
def _shipped_builders() -> Builders:
    named = [get_class(name) for name in sorted(shipped_targets()) if name.startswith("siglip_med.") and _is_part(name)]
    return builders(DataModule, FeatureDataModule, kept_where_frozen, parts=named)


def _is_part(name: str) -> bool:
    found = get_object(name)
    return isinstance(found, type) and issubclass(found, (Source, Splitter, SamplingStrategy))


@dataclass(frozen=True)
class Components:
    """A model, its data, the geometry and sentences of the conditions in it, and notes on the latter."""

    model: TwoTower
    data: LabeledData
    conditions: ConditionSet
    dissimilarity: np.ndarray
    training_prompts: tuple[tuple[str, ...], ...]
    evaluation_prompts: tuple[tuple[str, ...], ...]
    prompt_notes: tuple[str, ...] = ()

    @cached_property
    def split_report(self) -> SplitReport:
        """What became of every row of the data."""
        return self.data.split.report(self.data.table)

    @cached_property
    def prompt_ensemble(self) -> PromptEnsemble:
        """The evaluation prompts, tokenized once and shared by validation and evaluation."""
        return PromptEnsemble(self.evaluation_prompts, self.model.tokenize)

    def check_split(self, split_hash: str, checkpoint: Path) -> None:
        """Makes sure that no image that a checkpoint trained on is about to be tested.

        Raises:
            UserError: the split differs from the checkpoint's.
        """
        if self.data.split.hash != split_hash:
            raise UserError(
                f"{checkpoint}: it was trained on split {split_hash[:12]}, but the data now splits into "
                f"{self.data.split.hash[:12]}; give the run's own split with data.split_file=…/split.csv"
            )


def build_data(node: Node, model: TwoTower, seed: int, build: Build = instantiate) -> DataModule:
    """Reads, splits and caches the data of a ``data`` node for a model's image size."""
    data: DataModule = build(node, image=model.image_spec, seed=seed)
    data.prepare_data()
    data.setup("fit")
    model.image_spec = data.image  # a photograph of somebody else's is read as these were
    return data


def build_components(
    model: TwoTower,
    data: Node,
    features: Node | None,
    conditions: ConditionSettings,
    seed: int,
    device: torch.device,
    build: Build = instantiate,
) -> Components:
    """Reads the data for a model, and works out the geometry and the sentences of the conditions in it.

    Args:
        model: moved to ``device``.
        data: the ``data`` node.
        features: the ``features`` node; None trains on pixels.
        conditions: codes and geometry.
        seed: of the split, the order and the augmentation.
        device: where the model predicts, and computes the features of a frozen tower.
        build: makes objects of nodes; what comes out of a file is built by `siglip_med.core.trust`.

    Raises:
        UserError: the data or the codes of the settings are not available.
    """
    model = model.to(device)
    images = build_data(data, model, seed, build)
    if len(images.conditions) < 2:
        raise UserError(
            f"{images.table.source}: has the one condition {images.conditions[0]!r}, so nothing to tell apart; "
            "give data with two conditions or more (for a binary target name its negatives: data.source.aliases)"
        )
    table, rows = images.table, dict[str, int]()
    if table.unit == "rows":
        rows = {
            name: int(table.frame["source_row"].iloc[(table.labels[:, at] > 0).argmax()])
            for at, name in enumerate(table.conditions)
        }
    found = load_conditions(images.conditions, conditions.codes, rows)
    source: LabeledData = images if features is None else build(features, datamodule=images, model=model)
    if source is images and images.look_alikes == "join":
        raise UserError(f"data.look_alikes=join: no features of a frozen tower are kept; {HOW_ELSE}")
    distances = dissimilarity(
        found,
        geometry=conditions.geometry,
        measure=conditions.measure,
        labels=images.table.labels[images.split.train],
        weights=conditions.weights,
    )
    training, evaluation = training_prompts(found), evaluation_prompts(found)
    notes = (*wording_notes(found), *check_prompts(model, found.names, training))
    return Components(model, source, found, distances, training, evaluation, notes)


def build_model(node: Node, seed: int, build: Build = instantiate) -> TwoTower:
    """The model of a ``model`` node; the seed decides how adapters and heads start."""
    pl.seed_everything(seed, workers=True, verbose=False)
    model: TwoTower = build(node)
    return model
