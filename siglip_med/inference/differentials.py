"""What photographs gave: their most likely conditions, as a table, as files and on a terminal."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from rich.table import Table

from siglip_med.core.files import write_json, write_text
from siglip_med.core.outside import frame_csv
from siglip_med.core.provenance import Provenance, sentence


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
    """The most likely conditions of one image, or of one case, best first.

    Attributes:
        image: its path; "" for the answer of a case.
        candidates: none where nothing is in the picture.
        familiarity: p-value against validation, 0 with a fault; None where the checkpoint knows none.
        unfamiliar: why not to believe the candidates; "" for a familiar photograph.
        case: which it belongs to; "" where none was given.
    """

    image: str
    candidates: tuple[Candidate, ...]
    familiarity: float | None = None
    unfamiliar: str = ""
    case: str = ""


@dataclass(frozen=True)
class PredictionRun:
    """What a set of images gave.

    Attributes:
        differentials: one per readable image, in the order given.
        unreadable: path and reason of every file that is no image.
        calibrated: whether confidences were calibrated on the validation split.
        scores: whose they are: the refit's, or the prompts'.
        cases: one per case, from its photographs together, where cases were given.
        familiarity_known: whether the checkpoint knows how familiar a photograph is.
        notes: a sentence each on what was averaged: models, views.
        provenance: what the model was trained on; None where its checkpoint does not say.
    """

    differentials: tuple[Differential, ...]
    unreadable: tuple[tuple[str, str], ...]
    calibrated: bool
    scores: str = "prompts"
    cases: tuple[Differential, ...] = ()
    familiarity_known: bool = False
    notes: tuple[str, ...] = ()
    provenance: Provenance | None = None

    def frame(self) -> pd.DataFrame:
        """One row per candidate: image, rank, condition, code, confidence, logit, familiarity, unfamiliar, trained_on.

        A picture without content has one row without a candidate. Where cases were given there is a column case, and
        the rows of a case's own answer, without an image, follow those of the photographs.
        """
        shared = ["image", "familiarity", "unfamiliar", *["case"] * bool(self.cases)]
        rows = [
            {name: getattr(item, name) for name in shared} | candidate
            for item in (*self.differentials, *self.cases)
            for candidate in (map(asdict, item.candidates) if item.candidates else [{}])
        ]
        columns = ["image", "rank", "condition", "code", "confidence", "logit", *shared[1:]]
        trained_on = self.provenance.kind if self.provenance else "not known"
        return pd.DataFrame(rows, columns=columns).astype({"rank": "Int64"}).assign(trained_on=trained_on)

    def counts(self) -> str:
        """How many photographs are unfamiliar and why, in a sentence."""
        why = Counter(item.unfamiliar for item in self.differentials if item.unfamiliar)
        said = ", ".join(f"{count:,} {reason}" for reason, count in why.items())
        known = (
            "" if self.familiarity_known else "; the checkpoint is from before familiarity: only blank ones are named"
        )
        return (
            f"unfamiliar: {why.total():,} of {len(self.differentials):,} photographs{f' ({said})' * bool(said)}{known}"
        )

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Writes ``predictions.csv`` and ``predictions.json`` and returns their paths."""
        table, tree = folder / "predictions.csv", folder / "predictions.json"
        write_text(table, frame_csv(self.frame()))
        content = {
            "calibrated": self.calibrated,
            "scores": self.scores,
            "notice": sentence(self.provenance),
            "notes": list(self.notes),
            "images": [asdict(item) for item in self.differentials],
            "cases": [asdict(item) for item in self.cases],
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
        for item in (*self.differentials, *self.cases):
            name = Path(item.image).name if item.image else f"case {item.case}"
            if item.unfamiliar:
                table.add_row(name, "", f"unfamiliar: {item.unfamiliar}", "", "", end_section=True)
                continue
            for candidate in item.candidates:
                table.add_row(
                    name if candidate.rank == 1 else "",
                    str(candidate.rank),
                    candidate.condition,
                    candidate.code,
                    f"{candidate.confidence:.3g}",
                    end_section=candidate.rank == len(item.candidates),
                )
        return table
