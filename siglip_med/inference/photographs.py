"""Photographs in, a differential out: the most likely conditions with code and confidence."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from siglip_med.core.errors import UserError
from siglip_med.core.files import write_json, write_text
from siglip_med.core.image_spec import ImageSpec
from siglip_med.core.progress import tracked
from siglip_med.data.dataset import normalize
from siglip_med.data.images import SUFFIXES, read_image
from siglip_med.inference.maps import Target, against_the_mean
from siglip_med.models import (
    Device,
    PromptEnsemble,
    Refit,
    TwoTower,
    choose_device,
    load_export,
    load_model,
    read_refit,
)

ChosenScores = Literal["auto", "refit", "prompts"]
"""Whose scores rank the conditions: the refit's, the prompts', or (auto) the refit's where there is one."""
_PROBABLE = {"temperature": 1.0, "bias": 0.0}


@dataclass(frozen=True)
class Candidate:
    """One line of a differential.

    Attributes:
        rank: 1 is the most likely.
        condition: its name.
        code: ICD-10-CM.
        confidence: sigmoid of the (calibrated) logit, in [0, 1]; conditions are judged one by one, so the
            confidences of an image need not sum to 1.
        logit: before calibration.
    """

    rank: int
    condition: str
    code: str
    confidence: float
    logit: float


@dataclass(frozen=True)
class Differential:
    """The most likely conditions of one image, best first."""

    image: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class PredictionRun:
    """What a set of images gave.

    Attributes:
        differentials: one per readable image, in the order given.
        unreadable: path and reason of every file that is no image.
        calibrated: whether confidences were calibrated on the validation split.
        scores: whose they are: the refit's, or the prompts'.
    """

    differentials: tuple[Differential, ...]
    unreadable: tuple[tuple[str, str], ...]
    calibrated: bool
    scores: str = "prompts"

    def frame(self) -> pd.DataFrame:
        """One row per candidate: image, rank, condition, code, confidence, logit."""
        rows = [
            {"image": item.image} | asdict(candidate) for item in self.differentials for candidate in item.candidates
        ]
        return pd.DataFrame(rows, columns=["image", "rank", "condition", "code", "confidence", "logit"])

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Writes ``predictions.csv`` and ``predictions.json`` and returns their paths."""
        table, tree = folder / "predictions.csv", folder / "predictions.json"
        frame = self.frame()
        for column in ("image", "condition", "code"):
            frame[column] = frame[column].map(without_formula)
        write_text(table, frame.to_csv(index=False))
        content = {
            "calibrated": self.calibrated,
            "scores": self.scores,
            "images": [asdict(item) for item in self.differentials],
            "unreadable": [{"image": image, "reason": reason} for image, reason in self.unreadable],
        }
        write_json(tree, content)
        return table, tree

    def table(self) -> Table:
        """The differentials as a table for the terminal; the files hold whole paths."""
        heading = "confidence" if self.calibrated else "score (uncalibrated)"
        table = Table(title="Not a diagnosis: ranked conditions for research use")
        for column in ("image", "#", "condition", "ICD-10-CM", heading):
            table.add_column(column, justify="right" if column in ("#", heading) else "left", overflow="fold")
        for item in self.differentials:
            for candidate in item.candidates:
                table.add_row(
                    escape(Path(item.image).name) if candidate.rank == 1 else "",
                    str(candidate.rank),
                    escape(candidate.condition),
                    candidate.code,
                    f"{candidate.confidence:.3g}",
                    end_section=candidate.rank == len(item.candidates),
                )
        return table


def without_formula(text: str) -> str:
    """A text that no spreadsheet runs: one like a formula gets an apostrophe in front (``-123.png`` is none)."""
    risky = text.startswith(("=", "+", "@", "\t", "\r")) or (
        text.startswith("-") and re.fullmatch(r"-[\w./ ]*", text) is None
    )
    return f"'{text}" if risky else text


def find_images(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """Files that are named, and every image file below folders that are named, sorted within each folder.

    Raises:
        UserError: a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for item in [images] if isinstance(images, str | Path) else images:
        path = Path(item).expanduser()
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not inside:
                raise UserError(f"images={path}: the folder holds no image ({', '.join(sorted(SUFFIXES))})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"images={path}: there is no such file or folder")
    return list(dict.fromkeys(found))


def _batches(
    images: Sequence[Path], spec: ImageSpec, batch_size: int, unreadable: list[tuple[str, str]]
) -> Iterator[tuple[list[Path], Tensor]]:
    """Readable images in batches ``[B, 3, H, W]``; the others are appended to ``unreadable``."""
    paths: list[Path] = []
    pixels: list[np.ndarray] = []
    for path in tracked(images, "ranking conditions", "images"):
        try:
            image = read_image(path, spec.size, bits=spec.bits)
        except UserError as error:
            unreadable.append((str(path), str(error)))
            continue
        paths.append(path)
        pixels.append(image)
        if len(paths) == batch_size:
            yield paths, normalize(np.stack(pixels), spec)
            paths, pixels = [], []
    if paths:
        yield paths, normalize(np.stack(pixels), spec)


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
    """

    model: TwoTower
    payload: Mapping[str, Any]
    refit: Refit | None = None

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

    def target(self, column: int) -> Target:
        """What a map of a condition is drawn for: its logit against the mean of all."""
        if self.refit is not None:
            return partial(self.refit.against_the_mean, column=column)
        return against_the_mean(self.texts)[column]

    @torch.no_grad()
    def predict(self, images: str | Path | Sequence[str | Path], top_k: int = 5, batch_size: int = 16) -> PredictionRun:
        """Ranks the conditions for every image among files and folders.

        Raises:
            UserError: a path does not exist, no image can be read, or the checkpoint names no conditions.
        """
        files, payload = find_images(images), self.payload
        if not files:
            raise UserError("no image was given: name a file, a folder, or a list of them that is not empty")
        if not self.conditions:
            raise no_conditions("the checkpoint")
        unreadable: list[tuple[str, str]] = []
        found: list[Differential] = []
        for paths, pixels in _batches(files, self.model.image_spec, batch_size, unreadable):
            features = self.model.pooled_features(pixels.to(self.model.logit_scale.device))
            logits = self.logits(features).cpu().numpy()
            found += [
                Differential(str(path), ranked(row, payload["conditions"], payload["codes"], self.calibration, top_k))
                for path, row in zip(paths, logits, strict=True)
            ]
        if not found:
            raise UserError(f"none of the {len(files)} files could be read; the first: {unreadable[0][1]}")
        scores = "prompts" if self.refit is None else "refit"
        return PredictionRun(tuple(found), tuple(unreadable), self.calibration is not None, scores)


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
    refit = None
    if scores != "prompts":
        refit = read_refit(payload.get("refit"), len(payload["conditions"]), str(checkpoint))
    if scores == "refit" and refit is None:
        raise UserError(f"scores=refit: {checkpoint} holds no refit; use scores=prompts, or train with refit=kernel")
    return Classifier(model.to(chosen), payload, None if refit is None else refit.to(chosen))
