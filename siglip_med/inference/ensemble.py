"""Several trained models as one: their calibrated scores averaged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siglip_med.core.case_pooling import Average, average_logits
from siglip_med.inference.photographs import Classifier, scores_of
from siglip_med.inference.ranking import Ranker, Scored, calibrated


@dataclass(frozen=True)
class Ensemble(Ranker):
    """M trained models that rank the same conditions; made by `siglip_med.load_ensemble`.

    Attributes:
        members: the models.
        average: how their calibrated logits become one.
        joint: calibration of the averaged logits; None: they are no confidences.
        notes: which models they are, and what the confidences rest on.
    """

    members: tuple[Classifier, ...]
    average: Average
    joint: Mapping[str, float] | None
    notes: tuple[str, ...] = ()

    @property
    def payload(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Of the first model: conditions and codes are those of all."""
        return self.members[0].payload

    @property
    def whose(self) -> str:
        """Scores that are averaged."""
        return " and ".join(dict.fromkeys(member.whose for member in self.members))

    @property
    def calibration(self) -> Mapping[str, float] | None:
        """Of the averaged logits."""
        return self.joint

    @property
    def knows_familiarity(self) -> bool:
        """Whether every model knows how familiar a photograph is."""
        return all(member.knows_familiarity for member in self.members)

    def scores(self, files: Sequence[Path], batch_size: int, tta: int) -> Scored:
        """The averages for the files that every model can read; familiarity is the mean of the models' p-values."""
        models = {id(member.model): member.model for member in self.members}
        scored = dict[int, Scored]()
        for number, model in enumerate(models.values(), start=1):
            of = [member for member in self.members if member.model is model]
            line = f"ranking conditions, model {number} of {len(models)}"
            scored |= dict(zip(map(id, of), scores_of(of, files, batch_size, tta, line), strict=True))
        parts = [scored[id(member)] for member in self.members]
        unreadable = {path: reason for part in parts for path, reason in part.unreadable}
        places = [{path: row for row, path in enumerate(part.files)} for part in parts]
        read = [path for path in parts[0].files if all(path in of for of in places)]
        rows = [[of[path] for path in read] for of in places]
        logits = [
            calibrated(part.logits[of], member.calibration)
            for part, of, member in zip(parts, rows, self.members, strict=True)
        ]
        p: tuple[float | None, ...] = (None,) * len(read)
        if self.knows_familiarity and read:
            known = [np.array(part.familiarity, dtype=np.float64)[of] for part, of in zip(parts, rows, strict=True)]
            p = tuple(np.mean(known, axis=0).tolist())
        faults = [[part.faults[row] for row in of] for part, of in zip(parts, rows, strict=True)]
        first = tuple(next(filter(None, of), "") for of in zip(*faults, strict=True))
        averaged = average_logits(logits, self.average) if read else logits[0]
        return Scored(tuple(read), averaged, p, first, tuple(unreadable.items()))
