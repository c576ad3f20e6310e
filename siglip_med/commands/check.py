"""Looks at a data set as a run would use it, and stops: what is left out, who is in which split, what looks wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat
from rich.console import Console

from siglip_med.core.config import Builds, Node
from siglip_med.data import DataModule
from siglip_med.data.near_duplicates import near_duplicate_links
from siglip_med.data.quality import Quality, measure
from siglip_med.models import choose_device
from siglip_med.report.data_page import DataFindings, build_data_page, findings_lines
from siglip_med.report.page import write_page
from siglip_med.runs.components import build_components, build_model
from siglip_med.runs.settings import ConditionSettings, PathSettings


class Settings(BaseModel):
    """Top level of ``conf/check.yaml``.

    Attributes:
        seed: of the split.
        near_duplicate_distance: bits of 64 that the hashes of near-duplicates differ in at most.
        dark: see `Quality.found`; ``blurred`` likewise.
        images: whether the page shows photographs.
        output: folder of ``check.html``, ``check.md`` and ``check.json``.
    """

    model_config = ConfigDict(extra="forbid")

    seed: NonNegativeInt
    data: Annotated[Node, Builds(DataModule, given=("image", "seed"))]
    augmentation: Node | None
    model: Node
    conditions: ConditionSettings
    near_duplicate_distance: NonNegativeInt
    dark: PositiveFloat
    blurred: PositiveFloat
    images: bool
    output: str
    paths: PathSettings


@dataclass(frozen=True)
class Result:
    """What was found, and the page that shows it."""

    findings: DataFindings
    page: Path


def run(settings: Settings) -> Result:
    """Reads, splits and decodes the data, looks at images and prompts, and writes the page.

    Raises:
        UserError: a run on this data would stop too.
    """
    model = build_model(settings.model, settings.seed)
    components = build_components(model, settings.data, None, settings.conditions, settings.seed, choose_device("cpu"))
    data = components.data
    assert isinstance(data, DataModule)
    table = data.table
    quality = measure([table.root / image for image in table.frame["image"]], data.records, data.cache)
    findings = DataFindings(
        table=table,
        report=data.split.report(table),
        parts=data.split.parts,
        bad=[(item.image, item.reason) for item in data.bad_images],
        faults=quality.found(settings.dark, settings.blurred, model.image_spec.size),
        copies=copies_across_cases(quality, table.cases, settings.near_duplicate_distance),
        prompts=components.training_prompts,
        prompt_notes=components.prompt_notes,
        thumbnails=settings.images,
        bits=data.image.bits,
    )
    return Result(findings, write_page(build_data_page(findings), Path(settings.output), "check"))


def show(result: Result) -> None:
    """Prints what was found, one line each, and where the page is."""
    console = Console()
    for line in (*findings_lines(result.findings), f"page: {result.page}"):
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


def copies_across_cases(quality: Quality, cases: np.ndarray, distance: int) -> np.ndarray:
    """``[K, 3]`` row, row, bits between them: near-duplicates that are not one case, the nearest first."""
    links = near_duplicate_links(quality.hashes, distance)
    links = links[cases[links[:, 0]] != cases[links[:, 1]]]
    return links[np.argsort(links[:, 2], kind="stable")]
