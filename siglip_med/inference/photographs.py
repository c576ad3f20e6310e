"""Photographs in, a differential out: the most likely conditions with code and confidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from siglip_med.core.case_pooling import CasePooling, pool_logits
from siglip_med.core.errors import UserError
from siglip_med.inference.differentials import Candidate, Differential, PredictionRun
from siglip_med.inference.embedding import Embeddings, embed
from siglip_med.inference.familiarity import BLANK, familiarity, why_unfamiliar
from siglip_med.inference.files import batches, find_images, none_readable
from siglip_med.inference.maps import Target, against_the_mean
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

ChosenScores = Literal["auto", "refit", "prompts"]
"""Whose scores rank the conditions: the refit's, the prompts', or (auto) the refit's where there is one."""
_PROBABLE = {"temperature": 1.0, "bias": 0.0}


def ranked(
    logits: np.ndarray,
    conditions: Sequence[str],
    codes: Sequence[str],
    calibration: Mapping[str, float] | None,
    top_k: int,
) -> tuple[Candidate, ...]:
    """The ``top_k`` most likely conditions of one image, from ``[C]`` logits."""
    confidence = confidences(logits, calibration)
    best = np.argsort(-logits, kind="stable")[:top_k]
    return tuple(
        Candidate(rank, conditions[column], codes[column], float(confidence[column]), float(logits[column]))
        for rank, column in enumerate(best, start=1)
    )


def confidences(logits: np.ndarray, calibration: Mapping[str, float] | None) -> np.ndarray:
    """Sigmoid of the (calibrated) logits, of any shape; float64 in [0, 1]."""
    calibrated = logits.astype(np.float64)
    if calibration is not None:
        calibrated = calibrated / calibration["temperature"] + calibration["bias"]
    return 1 / (1 + np.exp(-calibrated))


def no_conditions(source: str) -> UserError:
    """What to say of a checkpoint that names none."""
    return UserError(f"{source} names no conditions: it comes from pretraining; use one of a fine-tuning run")


@dataclass(frozen=True)
class Classifier:
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
    def conditions(self) -> tuple[str, ...]:
        """The C names that it ranks."""
        return tuple(self.payload["conditions"])

    @property
    def calibration(self) -> Mapping[str, float] | None:
        """From its logits to confidences; a refit's need none. None: it was not calibrated."""
        return self.payload["calibration"] if self.refit is None else _PROBABLE

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

    def case(
        self, name: str, photographs: Sequence[Differential], logits: np.ndarray, top_k: int, pooling: CasePooling
    ) -> Differential:
        """The answer of a case from those of its n photographs and their ``[n, C]`` logits, calibrated and pooled.

        Unfamiliar photographs are left out of a case that has others; a case is as familiar as its most familiar one.
        """
        seen, familiar = (
            [row for row, one in enumerate(photographs) if one.candidates and not (one.unfamiliar and strict)]
            for strict in (False, True)
        )
        by, rows = self.calibration or _PROBABLE, familiar or seen
        p = max((one.familiarity for one in photographs if one.familiarity is not None), default=None)
        why = "" if familiar else photographs[0].unfamiliar
        if not rows:
            return Differential("", (), p, why, name)
        calibrated = logits[rows].astype(np.float64) / by["temperature"] + by["bias"]
        pooled = pool_logits(calibrated, np.zeros(len(rows), dtype=np.int64), pooling)[0]
        return Differential("", self.ranked((pooled - by["bias"]) * by["temperature"], top_k), p, why, name)

    def ranked(self, logits: np.ndarray, top_k: int) -> tuple[Candidate, ...]:
        """The ``top_k`` most likely conditions, from ``[C]`` logits."""
        return ranked(logits, self.payload["conditions"], self.payload["codes"], self.calibration, top_k)

    def target(self, column: int) -> Target:
        """What a map of a condition is drawn for: its logit against the mean of all."""
        if self.refit is not None:
            return partial(self.refit.against_the_mean, column=column)
        return against_the_mean(self.texts)[column]

    @torch.no_grad()
    def predict(
        self,
        images: str | Path | Sequence[str | Path],
        top_k: int = 5,
        batch_size: int = 16,
        cases: Mapping[Path, str] | None = None,
        pooling: CasePooling = "mean_logit",
    ) -> PredictionRun:
        """Ranks the conditions for every image among files and folders, and for every case of them.

        Args:
            images: files and folders.
            top_k: conditions of an image or case.
            batch_size: images encoded at once.
            cases: path of each file -> its case; None or empty: no answers of cases.
            pooling: how the photographs of a case become one answer, see `Classifier.case`.

        Raises:
            UserError: a path does not exist, no image can be read, or the checkpoint names no conditions.
        """
        files = find_images(images)
        if not files:
            raise UserError("no image was given: name a file, a folder, or a list of them that is not empty")
        if not self.conditions:
            raise no_conditions("the checkpoint")
        case_of = cases or {}
        unreadable: list[tuple[str, str]] = []
        found: list[Differential] = []
        scores: list[np.ndarray] = []
        for paths, pixels, faults in batches(
            files, self.model.image_spec, batch_size, unreadable, "ranking conditions"
        ):
            features = self.model.pooled_features(pixels.to(self.model.logit_scale.device))
            scores += list(self.logits(features).cpu().numpy())
            for path, p, wrong in zip(paths, self.familiarity(features, faults), faults, strict=True):
                best = () if wrong == BLANK else self.ranked(scores[len(found)], top_k)
                found.append(Differential(str(path), best, p, why_unfamiliar(p, wrong), case_of.get(path, "")))
        if not found:
            raise none_readable(unreadable)
        rows: dict[str, list[int]] = {}
        for row, one in enumerate(found):
            rows.setdefault(one.case, []).append(row)
        pooled = tuple(
            self.case(name, [found[row] for row in of], np.array([scores[row] for row in of]), top_k, pooling)
            for name, of in rows.items()
            if case_of
        )
        whose, calibrated = "prompts" if self.refit is None else "refit", self.calibration is not None
        return PredictionRun(tuple(found), tuple(unreadable), calibrated, whose, pooled, self.rule is not None)

    def embed(
        self, images: str | Path | Sequence[str | Path] = (), texts: Sequence[str] = (), batch_size: int = 16
    ) -> Embeddings:
        """Files and folders of images, and texts, in the space that the towers share; see `embed`.

        Raises:
            UserError: a path does not exist, or images were given and none can be read.
        """
        return embed(self.model, find_images(images), texts, batch_size)


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
    if Path(checkpoint).is_dir():
        if base is not None:
            raise UserError(f"base={base}: {checkpoint} is an export and holds its base; leave base out")
        model, payload = load_export(checkpoint)
    else:
        model, payload = load_model(checkpoint, base, trust)
    kept = read_refit(payload.get("refit"), len(payload["conditions"]), str(checkpoint))
    if scores == "refit" and kept is None:
        raise UserError(f"scores=refit: {checkpoint} holds no refit; use scores=prompts, or train with refit=kernel")
    kept = None if kept is None else kept.to(chosen)
    return Classifier(model.to(chosen), payload, None if scores == "prompts" else kept, kept)
