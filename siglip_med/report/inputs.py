"""What a report is made of, and the curves that a run logged, from whichever logger wrote them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field, NonNegativeInt, PositiveInt

from siglip_med.core.errors import UserError
from siglip_med.core.ranges import Coverage
from siglip_med.data.splitting.report import SplitReport
from siglip_med.inference.neighbour import Neighbour
from siglip_med.metrics import MALIGNANT, Bootstrap, Fixed, Interval, Predictions

Category = Annotated[str, Field(pattern="^[A-Z][0-9][0-9A-Z]$")]
"""A three-character category of ICD-10-CM, e.g. ``C43``."""
CURVE_COLUMNS = ("tag", "step", "value")
SCALARS_FILE = "scalars.csv"


@dataclass(frozen=True)
class RunMeta:
    """What was run; facts are what a reader needs to repeat it, and the config goes to the JSON alone."""

    name: str
    facts: dict[str, str] = field(default_factory=dict)
    config: dict[str, object] = field(default_factory=dict)
    own_metrics: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """Where a model looked: ``[S, S, 3]`` uint8 RGB as it saw it, maps ``[h, w]``, training images, nearest first."""

    row: int
    photograph: np.ndarray
    maps: Mapping[str, np.ndarray]
    near: tuple[Neighbour, ...] = ()


@dataclass(frozen=True)
class ReportInputs:
    """Predictions of a run and where they came from.

    Attributes:
        test: what is judged.
        val: chooses thresholds, calibration and the sizes of prediction sets; never judged.
        zero_shot: the same test images before training, or None.
        probes: the same test images by probes of the base's image features, by the name of the baseline.
        data_card: the run's data card, if it has one.
        curves: columns ``tag``, ``step``, ``value``; may be empty.
        meta: the run.
        split: what became of every row and who is in each split, if the run says it.
        external: what validations on other data sets found, by name: their ``metrics.json``.
        image_root: folder that ``test.frame["image"]`` is relative to; needed for photographs alone.
        image_bits: in use of photographs with 16 bits per channel.
        explanations: of the surest mistakes, by whoever has the model; shown where photographs are.
        explanation_notes: sentences on what they lack, or on why there are none.
    """

    test: Predictions
    val: Predictions
    zero_shot: Predictions | None = None
    probes: Mapping[str, Predictions] = field(default_factory=dict)
    curves: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(CURVE_COLUMNS)))
    meta: RunMeta = field(default_factory=lambda: RunMeta("run"))
    image_root: Path | None = None
    image_bits: int = 16
    data_card: Path | None = None
    explanations: tuple[Explanation, ...] = ()
    explanation_notes: tuple[str, ...] = ()
    split: SplitReport | None = None
    external: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportSettings:
    """How a report is made; a node of ``conf/evaluate.yaml``.

    Args:
        bootstrap: resamples of the cases.
        coverage: of the intervals.
        set_coverage: stated coverage of the prediction sets.
        distractors: of the test that ranks the truth among a few candidates.
        map_images: most images on the embedding map; a larger test split is sampled.
        seed: of the bootstrap, the distractors and the map.
        images: whether to show photographs (thumbnails); a report with them should not be published.
        image_root: folder of the photographs; None for the one of the run's data.
        specificity: fixed on validation, where the sensitivity is asked for.
        sensitivity: fixed on validation, where the specificity is asked for.
        smallest_group: cases that a group must have for its sensitivity, specificity or AUC to be told.
        malignant: three-character categories of ICD-10-CM that are malignant; the other conditions are the rest.
    """

    bootstrap: PositiveInt = 1000
    coverage: Coverage = 0.95
    set_coverage: Coverage = 0.9
    distractors: PositiveInt = 9
    map_images: PositiveInt = 2000
    seed: NonNegativeInt = 0
    images: bool = False
    image_root: str | None = None
    specificity: Coverage = 0.9
    sensitivity: Coverage = 0.95
    smallest_group: PositiveInt = 10
    malignant: tuple[Category, ...] = MALIGNANT

    @property
    def points(self) -> tuple[tuple[Fixed, float], ...]:
        """What is fixed on validation, and at which value."""
        return ("specificity", self.specificity), ("sensitivity", self.sensitivity)

    @property
    def resampling(self) -> Bootstrap:
        """Gives every interval and comparison of the report."""
        return Bootstrap(self.bootstrap, self.seed, self.coverage)


def read_curves(folder: Path) -> pd.DataFrame:
    """Columns ``tag``, ``step``, ``value`` of what a run logged; no rows where that is nothing.

    From ``scalars.csv``, else TensorBoard events anywhere in the folder, else the ``metrics.csv`` of Lightning.

    Raises:
        UserError: ``scalars.csv`` lacks a column.
    """
    if (folder / SCALARS_FILE).is_file():
        scalars = pd.read_csv(folder / SCALARS_FILE)
        missing = [name for name in CURVE_COLUMNS if name not in scalars]
        if missing:
            raise UserError(f"{folder / SCALARS_FILE}: no column {missing[0]}; it needs {', '.join(CURVE_COLUMNS)}")
        return scalars[list(CURVE_COLUMNS)]
    events = sorted({path.parent for path in folder.rglob("events.out.tfevents.*")})
    curves = [_from_events(path) for path in events]
    if not any(len(curve) for curve in curves):
        curves = [_from_csv(path) for path in sorted(folder.rglob("metrics.csv"))]
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return pd.DataFrame(columns=list(CURVE_COLUMNS))
    # a resumed run logs the steps since its checkpoint again: the last word counts
    return pd.concat(curves).drop_duplicates(["tag", "step"], keep="last").reset_index(drop=True)


def _from_events(folder: Path) -> pd.DataFrame:
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    accumulator.Reload()
    rows = [(tag, e.step, e.value) for tag in accumulator.Tags()[SCALARS] for e in accumulator.Scalars(tag)]
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def _from_csv(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path)
    if "step" not in table:
        return pd.DataFrame(columns=list(CURVE_COLUMNS))
    long = table.melt(id_vars="step", var_name="tag", value_name="value").dropna(subset="value")
    return long[list(CURVE_COLUMNS)]
