"""What a report is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import NonNegativeInt, PositiveInt

from siglip_med.core.ranges import Coverage
from siglip_med.inference.neighbour import Neighbour
from siglip_med.metrics import Bootstrap, Interval, Predictions

CURVE_COLUMNS = ("tag", "step", "value")


@dataclass(frozen=True)
class RunMeta:
    """What was run; facts are what a reader needs to repeat it, and the config goes to the JSON alone."""

    name: str
    facts: dict[str, str] = field(default_factory=dict)
    config: dict[str, object] = field(default_factory=dict)
    own_metrics: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """Where a model looked in an image, and which training images it is near to; a report itself asks no model.

    Attributes:
        row: of the image in the predictions.
        photograph: ``[S, S, 3]`` uint8 RGB, as the model saw it.
        maps: title -> ``[h, w]``, what is highest is drawn strongest.
        near: training images, nearest first.
    """

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
        probe: the same test images by a linear probe of the base's image features, or None.
        data_card: the run's data card, if it has one.
        curves: columns ``tag``, ``step``, ``value``; may be empty.
        meta: the run.
        image_root: folder that ``test.frame["image"]`` is relative to; needed for photographs alone.
        explanations: of the surest mistakes, by whoever has the model; shown where photographs are.
        explanation_notes: sentences on what they lack, or on why there are none.
    """

    test: Predictions
    val: Predictions
    zero_shot: Predictions | None = None
    probe: Predictions | None = None
    curves: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(CURVE_COLUMNS)))
    meta: RunMeta = field(default_factory=lambda: RunMeta("run"))
    image_root: Path | None = None
    data_card: Path | None = None
    explanations: tuple[Explanation, ...] = ()
    explanation_notes: tuple[str, ...] = ()


class ReportSettings:
    """How a report is made; a node of ``conf/evaluate.yaml``."""

    def __init__(
        self,
        bootstrap: PositiveInt = 1000,
        coverage: Coverage = 0.95,
        set_coverage: Coverage = 0.9,
        distractors: PositiveInt = 9,
        map_images: PositiveInt = 5000,
        seed: NonNegativeInt = 0,
        images: bool = False,
        image_root: str | None = None,
    ) -> None:
        """Takes the settings.

        Args:
            bootstrap: resamples of the cases.
            coverage: of the intervals.
            set_coverage: stated coverage of the prediction sets.
            distractors: of the test that ranks the truth among a few candidates.
            map_images: most images on the embedding map; a larger test split is sampled.
            seed: of the bootstrap, the distractors and the map.
            images: whether to show photographs (thumbnails); a report with them should not be published.
            image_root: folder of the photographs; None for the one of the run's data.
        """
        self.bootstrap = bootstrap
        self.coverage = coverage
        self.set_coverage = set_coverage
        self.distractors = distractors
        self.map_images = map_images
        self.seed = seed
        self.images = images
        self.image_root = image_root

    @property
    def resampling(self) -> Bootstrap:
        """Gives every interval and comparison of the report."""
        return Bootstrap(self.bootstrap, self.seed, self.coverage)
