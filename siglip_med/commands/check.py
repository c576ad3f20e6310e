"""Looks at a data set as a run would use it, and stops: what is left out, who is in which split, what looks wrong."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat

from siglip_med.core.config import Builds, Node
from siglip_med.core.csv_reading import TextTable, read_csv
from siglip_med.core.errors import SeveralErrors, UserError
from siglip_med.core.files import write_text
from siglip_med.core.outside import Console, frame_csv, say
from siglip_med.core.shell import other_command, typed_words
from siglip_med.data import DataModule
from siglip_med.data.cleaning import clean_table, table_faults, with_table
from siglip_med.data.fitting import Fit, fitting
from siglip_med.data.look_alike_files import find_look_alikes, save_groups
from siglip_med.data.near_duplicates import near_duplicate_links
from siglip_med.data.quality import Quality, measure
from siglip_med.data.splitting.look_alikes import LOOK_ALIKES
from siglip_med.data.table import SPLITS
from siglip_med.inference.probe import frozen_features
from siglip_med.models import TwoTower, choose_device
from siglip_med.report.data_page import DataFindings, build_data_page, findings_lines
from siglip_med.report.page import write_page
from siglip_med.runs.components import Components, build_components, build_model
from siglip_med.runs.settings import ConditionSettings, PathSettings

LISTED = 100
"""Most faults of a table that are printed."""
_OF_THE_FILE = ("data.source.table", "data.source.encoding", "data.source.delimiter")


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
        clean: a new CSV that gets the rows a run would use, or None; those that left are in ``<name>_removed.csv``
            beside it, with why.
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
    clean: str | None = None
    output: str
    paths: PathSettings


class WouldStop(UserError):
    """A run on the data, as it is and with the settings given, would stop."""

    exit_status = 1


@dataclass(frozen=True)
class Result:
    """What was found, and the page that shows it.

    Attributes:
        findings: of the data; of the cleaned table where one was written.
        page: the page.
        lines: settings that fit, with why, and how to train.
        stops: why a run on the data as it was given would stop; empty where it would not.
        cleaned: whether a table without that was written.
    """

    findings: DataFindings
    page: Path
    lines: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    cleaned: bool = False


def run(settings: Settings) -> Result:
    """Reads, splits and decodes the data, looks at images and prompts, and writes the page.

    Where the settings do not fit a table, what its columns, cells and files say is looked at in their place.

    Raises:
        WouldStop: a run on this data would stop too, and nothing that fits was found.
        UserError: a setting of the command itself is wrong.
    """
    s, typed = settings, typed_words("data", "model", "augmentation", "conditions", "seed")
    if s.same is not None and not s.look_alikes:
        raise UserError("same=… is read with look_alikes=true alone; add it")
    text = table_of(s.data["source"])
    if s.clean is not None:
        check_clean(Path(s.clean), text, s.data["source"])
        typed = {key: word for key, word in typed.items() if key not in _OF_THE_FILE}
    model, stops, fits = build_model(s.model, s.seed), list[str](), fits_of(s, text)
    if s.clean is not None and text is not None:
        components, fits = clean(s, text, fits, model, stops)
    else:
        components = look(s, text, fits, model, stops)
    if components is None:
        for line in how_to_train(fits, typed) if fits else ():
            say(f"  {line}")
        raise WouldStop(stops[-1])
    data = components.data
    assert isinstance(data, DataModule)
    if data.bad_images and "data.on_bad_image" not in typed:
        stops.append(f"{len(data.bad_images):,} files give no image, the first {data.bad_images[0].image}")
        fits.append(Fit("data.on_bad_image", "skip", f"{len(data.bad_images):,} files give no image"))
    findings = look_at_images(s, components.model, data, components)
    page = write_page(build_data_page(findings), Path(s.output), "check")
    return Result(findings, page, how_to_train(fits, typed), tuple(stops), s.clean is not None)


def show(result: Result) -> None:
    """Prints what was found, one line each, where the page is, and how to train.

    Raises:
        WouldStop: a run on the data as it was given would stop; where it was cleaned, SystemExit with its status.
    """
    console = Console()
    for line in (*findings_lines(result.findings), *result.lines, f"page: {result.page}"):
        console.print(f"  {line}", soft_wrap=True, highlight=False)
    for why in result.stops:
        console.print(f"  would stop: {why}", soft_wrap=True, highlight=False)
    if result.stops and result.cleaned:
        console.print("  cleaned; a run on the table as it was given would stop (exit status 1)", soft_wrap=True)
        raise SystemExit(WouldStop.exit_status)
    if result.stops:
        raise WouldStop("a run on the data as it was given would stop; above stand why, and a command that fits")


def look(
    settings: Settings, text: TextTable | None, fits: Sequence[Fit], model: TwoTower, stops: list[str]
) -> Components | None:
    """The data as a run would build it, as given or else with what fits; ``stops`` gets why a run would stop."""
    for node in (settings.data, *([fitted(settings.data, fits)] if fits else [])):
        try:
            return built(settings, node, model)
        except UserError as error:
            if of_the_machine(error):
                raise
            line, in_rows = list_faults(error, node, text)
            stops.append(line)
            if in_rows or node is not settings.data or not fits:
                return None
            say(f"  {line}")
            say("  what fits the table, in place of what was given, is looked at:")
    return None


def built(settings: Settings, node: Node, model: TwoTower) -> Components:
    """The data of a node as a run would build it."""
    return build_components(model, node, None, settings.conditions, settings.seed, choose_device("cpu"))


def of_the_machine(error: UserError) -> bool:
    """Whether an error, of a full disk for example, says nothing of the data."""
    return isinstance(error.__cause__, OSError)


def fits_of(settings: Settings, text: TextTable | None) -> list[Fit]:
    """What the settings of a table's source do not say yet."""
    return [] if text is None else fitting(text, settings.data["source"], settings.conditions.codes is not None)


def clean(
    settings: Settings, text: TextTable, fits: Sequence[Fit], model: TwoTower, stops: list[str]
) -> tuple[Components | None, list[Fit]]:
    """What a run would build of the cleaned table (None: nothing), and what fits it; ``stops`` gets why it would stop.

    An alias that is not in the cleaned table any more is not among what fits.
    """
    s, path, left = settings, Path(str(settings.clean)).expanduser(), list(fits)
    try:
        if fits and not table_faults(s.data, text):  # those of rows are told by what leaves
            built(s, s.data, model)
    except UserError as error:
        if of_the_machine(error):
            raise
        stops.append(str(error))
    for fit in fits:
        if fit.key == "data.source.aliases":
            say(f"  cleaned by {fit.word or fit.key}: {fit.why}")
    try:
        unused = clean_table(fitted(s.data, fits), text, model.image_spec, path, LISTED)
        images = {} if "data.on_bad_image" in typed_words("data") else unused.images
        for rows, what in ((unused.faults, "rows have faults"), (images, "files give no image")):
            stops += [f"{len(rows):,} {what}, the first in row {min(rows)}: {rows[min(rows)]}" for _ in [1] if rows]
        left = [*fits_of(s, read_csv(path)), Fit("data.source.table", str(path.resolve()), "the cleaned table")]
        node = with_table(fitted(s.data, left), path.resolve())
        return built(s, node, model), left
    except UserError as error:
        if of_the_machine(error):
            raise
        stops.append(str(error))
        return None, left


def look_at_images(settings: Settings, model: TwoTower, data: DataModule, components: Components) -> DataFindings:
    """Measures the images, finds copies of them and, where they are asked for, look-alikes."""
    s, table = settings, data.table
    quality = measure([table.root / image for image in table.frame["image"]], data.records, data.cache)
    copies = copies_across_cases(quality, table.cases, s.near_duplicate_distance)
    folder, found = Path(s.output), None
    if s.look_alikes:
        marked = None if s.same is None else Path(s.same)
        features = whole_features(model, data)
        found = find_look_alikes(table, features, data.look_alikes_threshold, copies[:, :2], marked)
        write_text(folder / LOOK_ALIKES, frame_csv(found.listed))
        save_groups(folder / "groups.csv", table, found.groups)
    return DataFindings(
        table=table,
        report=data.split.report(table),
        parts=data.split.parts,
        bad=[(item.image, item.reason) for item in data.bad_images],
        faults=quality.found(s.dark, s.blurred, model.image_spec.size),
        copies=copies,
        prompts=components.training_prompts,
        prompt_notes=components.prompt_notes,
        thumbnails=s.images,
        bits=data.image.bits,
        look_alikes=found,
    )


def table_of(source: Mapping[str, Any]) -> TextTable | None:
    """The table of a source that reads one; None for another source, and where it cannot be read (a run says why)."""
    if not isinstance(source.get("table"), str) or "image_column" not in source:
        return None
    path = Path(str(source["root"])).expanduser() / source["table"]
    try:
        return read_csv(path, encoding=source.get("encoding"), delimiter=source.get("delimiter"), skip_faulty=True)
    except UserError:
        return None


def check_clean(path: Path, text: TextTable | None, source: Mapping[str, Any]) -> None:
    """Raises a UserError where there is no table to clean, or the file is there already."""
    if text is None or source.get("split_rows"):
        what = "no table that can be read" if text is None else "split_rows, which count the rows of its table"
        raise UserError(f"clean={path}: the data has {what}; leave clean out")
    if path.expanduser().exists():
        raise UserError(f"clean={path}: is there already; give another name, or remove it")


def fitted(node: Node, fits: Sequence[Fit]) -> Node:
    """A data node with the settings of its source that fit; a split of the data would need a splitter too."""
    inside = {fit.key.removeprefix("data.source."): fit.value for fit in fits if fit.key.startswith("data.source.")}
    inside.pop("split_column", None)
    return {**node, "source": {**node["source"], **inside}}


def list_faults(error: UserError, node: Node, text: TextTable | None) -> tuple[str, bool]:
    """Prints every fault of a table's rows; what to say at the end, and whether it is of rows."""
    every = [str(one) for one in error.every] if isinstance(error, SeveralErrors) else []
    if text is not None:
        with suppress(UserError):  # what else is wrong with the table: the error says it
            every = [f"{text.where(row)}: {why}" for row, why in sorted(table_faults(node, text).items())]
    if len(every) < 2:
        return str(error), bool(every)
    for fault in every[:LISTED]:
        say(f"  {fault}")
    rest = f", of which {LISTED} are listed" if len(every) > LISTED else ""
    return f"{len(every):,} faults in the table{rest}: mend them, or take clean=labels_clean.csv, and check again", True


def how_to_train(fits: Sequence[Fit], typed: Mapping[str, str]) -> tuple[str, ...]:
    """What fits beside what was typed, with why, and the command that has both."""
    words = {fit.key: fit.word for fit in fits}
    said = [
        f"fits: {words[fit.key] or f'{fit.key} with names that take a file: @names.csv'} ({fit.why})" for fit in fits
    ]
    every = [word for word in (dict(typed) | words).values() if word]
    command = f"to train: {' '.join([other_command('train'), 'experiment=layered', *every])}"
    base = (
        ()
        if "model" in typed
        else ("that trains the base of 64 pixels that comes along; for photographs add model=siglip_base (a download)",)
    )
    return (*said, command, *base)


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
