"""From scores of photographs to differentials: what one trained model and several as one have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siglip_med.core.case_pooling import CasePooling, pool_logits
from siglip_med.core.errors import UserError
from siglip_med.core.provenance import Provenance
from siglip_med.inference.differentials import Candidate, Differential, PredictionRun
from siglip_med.inference.familiarity import BLANK, why_unfamiliar
from siglip_med.inference.files import find_images, none_readable

PROBABLE: Mapping[str, float] = {"temperature": 1.0, "bias": 0.0}
"""The calibration of logits whose sigmoid is a confidence already."""


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
    return 1 / (1 + np.exp(-calibrated(logits, calibration)))


def calibrated(logits: np.ndarray, calibration: Mapping[str, float] | None) -> np.ndarray:
    """Logits / temperature + bias, of any shape, in float64; None leaves them as they are."""
    by = calibration or PROBABLE
    return logits.astype(np.float64) / by["temperature"] + by["bias"]


def no_conditions(source: str) -> UserError:
    """What to say of a checkpoint that names none."""
    return UserError(f"{source} names no conditions: it comes from pretraining; use one of a fine-tuning run")


@dataclass(frozen=True)
class Scored:
    """What was said of n readable photographs.

    Attributes:
        files: the n paths.
        logits: ``[n, C]`` before calibration.
        familiarity: p-value of each; None where it is not known.
        faults: the fault of each, "" for none.
        unreadable: path and reason of every other file.
    """

    files: tuple[Path, ...]
    logits: np.ndarray
    familiarity: tuple[float | None, ...]
    faults: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]


class Ranker(ABC):
    """Ranks conditions for photographs, and for cases of them.

    Attributes:
        payload: conditions and codes among it.
        whose: scores that rank: the refit's, or the prompts'.
        notes: a sentence each on how its answers come about.
    """

    payload: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    @abstractmethod
    def whose(self) -> str: ...

    @property
    @abstractmethod
    def calibration(self) -> Mapping[str, float] | None:
        """From its logits to confidences; None: it was not calibrated."""

    @property
    @abstractmethod
    def knows_familiarity(self) -> bool: ...

    @abstractmethod
    def scores(self, files: Sequence[Path], batch_size: int, tta: int) -> Scored:
        """Scores every readable file, as the mean over the first ``tta`` of `siglip_med.inference.views.views`."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """The C names that it ranks."""
        return tuple(self.payload["conditions"])

    def ranked(self, logits: np.ndarray, top_k: int) -> tuple[Candidate, ...]:
        """The ``top_k`` most likely conditions, from ``[C]`` logits."""
        return ranked(logits, self.payload["conditions"], self.payload["codes"], self.calibration, top_k)

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
        by, rows = self.calibration or PROBABLE, familiar or seen
        p = max((one.familiarity for one in photographs if one.familiarity is not None), default=None)
        why = "" if familiar else photographs[0].unfamiliar
        if not rows:
            return Differential("", (), p, why, name)
        pooled = pool_logits(calibrated(logits[rows], by), np.zeros(len(rows), dtype=np.int64), pooling)[0]
        return Differential("", self.ranked((pooled - by["bias"]) * by["temperature"], top_k), p, why, name)

    def predict(
        self,
        images: str | Path | Sequence[str | Path],
        top_k: int = 5,
        batch_size: int = 16,
        cases: Mapping[Path, str] | None = None,
        pooling: CasePooling = "mean_logit",
        tta: int = 1,
    ) -> PredictionRun:
        """Ranks the conditions for every image among files and folders, and for every case of them.

        Args:
            images: files and folders.
            top_k: conditions of an image or case.
            batch_size: images encoded at once.
            cases: path of each file -> its case; None or empty: no answers of cases.
            pooling: how the photographs of a case become one answer, see `Ranker.case`.
            tta: views of each photograph whose logits are averaged, see `siglip_med.inference.views`; 1: as it is.

        Raises:
            UserError: a path does not exist, no image can be read, or the checkpoint names no conditions.
        """
        files = find_images(images)
        if not files:
            raise UserError("no image was given: name a file, a folder, or a list of them that is not empty")
        if not self.conditions:
            raise no_conditions("the checkpoint")
        case_of, scored = cases or {}, self.scores(files, batch_size, tta)
        if not scored.files:
            raise none_readable(scored.unreadable)
        found: list[Differential] = []
        rows: dict[str, list[int]] = {}
        columns = zip(scored.files, scored.logits, scored.familiarity, scored.faults, strict=True)
        for row, (path, logits, p, wrong) in enumerate(columns):
            best, case = () if wrong == BLANK else self.ranked(logits, top_k), case_of.get(path, "")
            found.append(Differential(str(path), best, p, why_unfamiliar(p, wrong), case))
            rows.setdefault(case, []).append(row)
        pooled = tuple(
            self.case(name, [found[row] for row in of], scored.logits[of], top_k, pooling)
            for name, of in rows.items()
            if case_of
        )
        views = (f"the mean over {tta} views of each photograph; confidences keep the calibration of one view",)
        return PredictionRun(
            tuple(found),
            scored.unreadable,
            self.calibration is not None,
            self.whose,
            pooled,
            self.knows_familiarity,
            self.notes + views * (tta > 1),
            Provenance.read(self.payload.get("provenance"), "the checkpoint"),
        )
