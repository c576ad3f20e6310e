"""Looks at a data set as a run would use it, and stops: what is left out, who is in which split, what looks wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat

from siglip_med.core.config import Builds, Node
from siglip_med.core.errors import SeveralErrors, UserError
from siglip_med.core.files import write_text
from siglip_med.core.outside import Console, frame_csv, say
from siglip_med.data import DataModule
from siglip_med.data.look_alike_files import find_look_alikes, save_groups
from siglip_med.data.near_duplicates import near_duplicate_links
from siglip_med.data.quality import Quality, measure
from siglip_med.data.splitting.look_alikes import LOOK_ALIKES
from siglip_med.data.table import SPLITS
from siglip_med.inference.probe import frozen_features
from siglip_med.models import TwoTower, choose_device
from siglip_med.report.data_page import DataFindings, build_data_page, findings_lines
from siglip_med.report.page import write_page
from siglip_med.runs.components import build_components, build_model
from siglip_med.runs.settings import ConditionSettings, PathSettings

LISTED = 100
"""Most faults of a table that are printed."""


class Settings(BaseModel):
    """Top level of ``conf/check.yaml``.

    Attributes:
        seed: of the split.
        near_duplicate_distance: bits of 64 that the hashes of near-duplicates differ in at most.
        dark: see `Quality.found`; ``blurred`` likewise.
        images: whether the page shows photographs.
        look_alikes: whether to look for look-alikes by the base's features (every image is embedded);
            ``look_alikes.csv`` then lists pairs, and ``groups.csv`` has the column ``look_alike_group``.
        same: a ``look_alikes.csv`` in which a person wrote yes or no into the column ``same``, or None.
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
    look_alikes: bool = False
    same: str | None = None
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
    model, s = build_model(settings.model, settings.seed), settings
    try:
        components = build_components(model, s.data, None, s.conditions, s.seed, choose_device("cpu"))
    except SeveralErrors as error:
        for fault in error.every[:LISTED]:
            say(f"  {fault}")
        rest = f", of which {LISTED} are listed" if len(error.every) > LISTED else ""
        raise UserError(f"{len(error.every):,} faults in the table{rest}: mend them, and check again") from error
    data = components.data
    assert isinstance(data, DataModule)
    table = data.table
    quality = measure([table.root / image for image in table.frame["image"]], data.records, data.cache)
    copies = copies_across_cases(quality, table.cases, settings.near_duplicate_distance)
    folder, found = Path(settings.output), None
    if settings.same is not None and not settings.look_alikes:
        raise UserError("same=… is read with look_alikes=true alone; add it")
    if settings.look_alikes:
        marked = None if settings.same is None else Path(settings.same)
        features = whole_features(model, data)
        found = find_look_alikes(table, features, data.look_alikes_threshold, copies[:, :2], marked)
        write_text(folder / LOOK_ALIKES, frame_csv(found.listed))
        save_groups(folder / "groups.csv", table, found.groups)
    findings = DataFindings(
        table=table,
        report=data.split.report(table),
        parts=data.split.parts,
        bad=[(item.image, item.reason) for item in data.bad_images],
        faults=quality.found(settings.dark, settings.blurred, model.image_spec.size),
        copies=copies,
        prompts=components.training_prompts,
        prompt_notes=components.prompt_notes,
        thumbnails=settings.images,
        bits=data.image.bits,
        look_alikes=found,
    )
    return Result(findings, write_page(build_data_page(findings), folder, "check"))


def show(result: Result) -> None:
    """Prints what was found, one line each, and where the page is."""
    console = Console()
    for line in (*findings_lines(result.findings), f"page: {result.page}"):
        console.print(f"  {line}", soft_wrap=True, highlight=False)


def whole_features(model: TwoTower, data: DataModule) -> np.ndarray:
    """``[N, F]`` features of the base, of every image of the table."""
    parts = [frozen_features(model, data, split, what="look-alikes") for split in SPLITS]
    rows = np.concatenate([of for _, of in parts])
    return np.concatenate([features for features, _ in parts])[np.argsort(rows)]


def copies_across_cases(quality: Quality, cases: np.ndarray, distance: int) -> np.ndarray:
    """``[K, 3]`` row, row, bits between them: near-duplicates that are not one case, the nearest first."""
    links = near_duplicate_links(quality.hashes, distance)
    links = links[cases[links[:, 0]] != cases[links[:, 1]]]
    return links[np.argsort(links[:, 2], kind="stable")]
