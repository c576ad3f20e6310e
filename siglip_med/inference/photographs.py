"""Photographs in, a differential out: the most likely conditions with code and confidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from siglip_med.core.errors import UserError
from siglip_med.inference.embedding import Embeddings, embed
from siglip_med.inference.familiarity import familiarity
from siglip_med.inference.files import batches, find_images
from siglip_med.inference.maps import Target, against_the_mean
from siglip_med.inference.ranking import PROBABLE, Ranker, Scored
from siglip_med.inference.views import views
from siglip_med.models import (
    Device,
    Familiarity,
    PromptEnsemble,
    Refit,
    TwoTower,
    choose_device,
    load_export,
    load_model,
    read_familiarity,
    read_refit,
)
from siglip_med.models.hub import quiet

ChosenScores = Literal["auto", "refit", "prompts"]
"""Whose scores rank the conditions: the refit's, the prompts', or (auto) the refit's where there is one."""
Averaged = ChosenScores | Literal["both"]
"""The same of several models as one; both: the refit's and the prompts', as two members each."""


@dataclass(frozen=True)
class Classifier(Ranker):
    """A trained model with what its checkpoint says of it; made by `load`.

    Attributes:
        model: in evaluation mode, on the device where it runs.
        payload: of its checkpoint: conditions, codes, prompts, calibration.
        refit: ranks the conditions in place of their prompts; None: the prompts do.
        kept: the refit that familiarity is measured by, whoever ranks; None: the checkpoint holds none.
    """

    model: TwoTower
    payload: Mapping[str, Any]
    refit: Refit | None = None
    kept: Refit | None = None

    @property
    def whose(self) -> str:
        """Scores that rank: the refit's, or the prompts'."""
        return "prompts" if self.refit is None else "refit"

    @property
    def calibration(self) -> Mapping[str, float] | None:
        """From its logits to confidences; a refit's need none. None: it was not calibrated."""
        return self.payload["calibration"] if self.refit is None else PROBABLE

    @cached_property
    def texts(self) -> Tensor:
        """``[C, E]`` of the conditions: the mean of their prompts' embeddings."""
        return PromptEnsemble(self.payload["prompts"], self.model.tokenize).encode(self.model)

    def logits(self, features: Tensor) -> Tensor:
        """``[B, F]`` pooled features to ``[B, C]`` logits."""
        if self.refit is not None:
            return self.refit(features)
        return self.model.logits(self.model.project_images(features), self.texts)

    @cached_property
    def rule(self) -> Familiarity | None:
        """Says how familiar a photograph is; None: the checkpoint is from before there was that."""
        rule = read_familiarity(self.payload)
        return None if rule and rule.distance and self.kept is None else rule

    def familiarity(self, features: Tensor, faults: Sequence[str]) -> list[float | None]:
        """p-value of each of ``[B, F]`` pooled features with their faults ("" for none); None where it is not known."""
        if self.rule is None:
            return [None] * len(faults)
        logits = self.model.logits(self.model.project_images(features), self.texts) if self.kept is None else None
        return [float(p) for p in familiarity(self.rule, self.kept, features, logits, faults)]

    def target(self, column: int) -> Target:
        """What a map of a condition is drawn for: its logit against the mean of all."""
        if self.refit is not None:
            return partial(self.refit.against_the_mean, column=column)
        return against_the_mean(self.texts)[column]

    @property
    def knows_familiarity(self) -> bool:
        """Whether its checkpoint does."""
        return self.rule is not None

    def scores(self, files: Sequence[Path], batch_size: int, tta: int) -> Scored:
        """Scores every readable file; familiarity is that of the photograph as it is, whatever the views."""
        return scores_of([self], files, batch_size, tta, "ranking conditions")[0]

    def embed(
        self, images: str | Path | Sequence[str | Path] = (), texts: Sequence[str] = (), batch_size: int = 16
    ) -> Embeddings:
        """Files and folders of images, and texts, in the space that the towers share; see `embed`.

        Raises:
            UserError: a path does not exist, or images were given and none can be read.
        """
        return embed(self.model, find_images(images), texts, batch_size)


@torch.no_grad()
def scores_of(
    classifiers: Sequence[Classifier], files: Sequence[Path], batch_size: int, tta: int, doing: str
) -> list[Scored]:
    """What classifiers of one model say, in one pass over the files; arguments as of `Ranker.scores`."""
    first, unreadable, read, wrong = classifiers[0], list[tuple[str, str]](), list[Path](), list[str]()
    logits = [[np.empty((0, len(one.conditions)), np.float32)] for one in classifiers]
    known: list[float | None] = []
    for paths, pixels, faults in batches(files, first.model.image_spec, batch_size, unreadable, doing):
        seen = pixels.to(first.model.logit_scale.device)
        of_views = [first.model.pooled_features(view) for view in views(seen, tta)]
        for one, found in zip(classifiers, logits, strict=True):
            found.append(torch.stack([one.logits(view) for view in of_views]).mean(dim=0).cpu().numpy())
        known += first.familiarity(of_views[0], faults)
        read += paths
        wrong += faults
    rest = tuple(known), tuple(wrong), tuple(unreadable)
    return [Scored(tuple(read), np.concatenate(found), *rest) for found in logits]


def load(
    checkpoint: str | Path,
    base: str | Mapping[str, str] | None = None,
    device: Device = "auto",
    trust: Sequence[str] = (),
    scores: ChosenScores = "auto",
) -> Classifier:
    """Loads a trained model from its checkpoint or from a merged export; nothing else of the run is needed.

    Args:
        checkpoint: of a fine-tuning run, or the folder of an export.
        base: where the base is now, as in `load_model`; an export has none.
        device: where the model runs.
        trust: dotted names of your own towers that the checkpoint may build, e.g. ``["my_towers.mine"]``.
        scores: whose scores rank; ``auto``: the refit's where the checkpoint holds one.

    Raises:
        UserError: the checkpoint, its base, its refit or the device is not available.
    """
    chosen = choose_device(device)
    if Path(checkpoint).is_dir() and base is not None:
        raise UserError(f"base={base}: {checkpoint} is an export and holds its base; leave base out")
    with quiet():
        loaded = load_export(checkpoint) if Path(checkpoint).is_dir() else load_model(checkpoint, base, trust)
    model, payload = loaded
    kept = read_refit(payload.get("refit"), len(payload["conditions"]), str(checkpoint))
    if scores == "refit" and kept is None:
        raise UserError(f"scores=refit: {checkpoint} holds no refit; use scores=prompts, or train with refit=kernel")
    kept = None if kept is None else kept.to(chosen)
    return Classifier(model.to(chosen), payload, None if scores == "prompts" else kept, kept)
