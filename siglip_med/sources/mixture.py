"""Several data sets as one table, their labels brought together by name and ICD-10-CM code."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from siglip_med.conditions.harmony import Chosen, Harmony, Meaning, harmonize
from siglip_med.core.errors import UserError
from siglip_med.core.provenance import Provenance
from siglip_med.data.accounting import sum_up
from siglip_med.data.filters import keep_rows
from siglip_med.data.near_duplicates import group_near_duplicates, perceptual_hashes
from siglip_med.data.source import Source
from siglip_med.data.table import ImageTable
from siglip_med.sources.base import Distance


@dataclass(frozen=True, kw_only=True)
class MixtureSource:
    """Several sources, each under a name of its own: one table with a column ``source``, its cases named after it.

    Args:
        sources: by name.
        conditions: ``union``, ``intersection`` or a list; see `harmonize`.
        codes: a CSV with ``condition`` and ``code`` of any level, for labels that the curated tables do not know.
        held_out: the source that is tested; the others train, whatever splits they come with.
        near_duplicate_distance: bits of 64 in which images of one case differ at most, also across sources; None
            opens no image. Images of other sources that repeat one of a source held out are left out.

    Raises:
        UserError: a source is missing or wrong, fewer than two are given, or their labels have nothing in common.
    """

    sources: dict[str, Source]
    conditions: Chosen = "union"
    codes: str | None = None
    held_out: str | None = None
    near_duplicate_distance: Distance | None = 4

    def __post_init__(self) -> None:
        if len(self.sources) < 2:
            raise UserError("data.source.sources: a mixture has two sources or more, each under a name of its own")
        if self.held_out is not None and self.held_out not in self.sources:
            raise UserError(f"data.source.held_out: {self.held_out!r} is none of {', '.join(self.sources)}")

    def prepare(self) -> None:
        """Prepares each source."""
        for source in self.sources.values():
            source.prepare()

    def load(self) -> ImageTable:
        """Reads the tables and joins them; a UserError where a source is wrong, or nothing is left."""
        tables = {name: self._read(name) for name in self.sources}
        chosen = self.conditions if isinstance(self.conditions, str) else list(self.conditions)
        found = harmonize({name: table.conditions for name, table in tables.items()}, chosen, self.codes)
        mixed = _known(self._joined(tables, found))
        if self.near_duplicate_distance is not None:
            hashes = perceptual_hashes(mixed, on_bad_image="skip")
            mixed = group_near_duplicates(mixed, hashes, self.near_duplicate_distance)
        return mixed if self.held_out is None else _tested(mixed, self.held_out)

    def _read(self, name: str) -> ImageTable:
        try:
            return self.sources[name].load()
        except UserError as error:
            said = str(error).replace("data.source.", f"data.source.sources.{name}.")
            raise UserError(f"{name}: {said}") from error

    def _joined(self, tables: Mapping[str, ImageTable], found: Harmony) -> ImageTable:
        """All rows, also those without a condition of the mixture."""
        root = Path(os.path.commonpath([table.root.resolve() for table in tables.values()]))
        broad = sorted({among(m) for of in found.meanings.values() for m in of.values() if m.open_among})
        parts = [_translated(name, table, found, broad, root) for name, table in tables.items()]
        weights = np.concatenate([part.broad_labels for part in parts if part.broad_labels is not None])
        left_out = [replace(one, reason=f"{name}: {one.reason}") for name in tables for one in tables[name].left_out]
        return ImageTable(
            pd.concat([part.frame for part in parts], ignore_index=True),
            np.concatenate([part.labels for part in parts]),
            found.conditions,
            root,
            f"mixture of {', '.join(tables)}",
            notes=tuple(f"{name}: {note}" for name, part in zip(tables, parts, strict=True) for note in part.notes),
            left_out=sum_up(left_out),
            unit="images",
            provenance=_origin({name: table.provenance for name, table in tables.items()}),
            thumbnails=all(table.thumbnails for table in tables.values()),
            broad=tuple(broad),
            broad_labels=weights if broad else None,
        )


def _origin(origins: Mapping[str, Provenance]) -> Provenance:
    kinds = {origin.kind for origin in origins.values()}
    if len(kinds) > 1:
        raise UserError("data.source.sources: drawings and photographs are not mixed; take sources of one kind")
    return Provenance(
        kinds.pop(),
        " + ".join(f"{name} ({origin.name})" for name, origin in origins.items()),
        "; ".join(f"{name}: {origin.license}" for name, origin in origins.items()),
    )


def among(meaning: Meaning) -> tuple[str, ...]:
    """Every condition that a label may mean, by name."""
    return tuple(sorted({meaning.condition, *meaning.open_among} - {""}))


def _translated(name: str, table: ImageTable, found: Harmony, broad: list[tuple[str, ...]], root: Path) -> ImageTable:
    """One source's rows under the mixture's conditions, paths and cases; its notes say what became of its labels."""
    column = {condition: place for place, condition in enumerate(found.conditions)}
    labels = np.zeros((len(table), len(column)), dtype=np.float32)
    weights = np.zeros((len(table), len(broad)), dtype=np.float32)
    notes, own = list(table.notes), []
    for label, given in zip(table.conditions, table.labels.T, strict=True):
        meaning = found.meanings[name][label]
        own.append(column.get(meaning.condition, -1))
        if meaning.condition:
            labels[:, own[-1]] = np.maximum(labels[:, own[-1]], given)
        if meaning.open_among:
            node = broad.index(among(meaning))
            weights[:, node] = np.maximum(weights[:, node], given)
        if said := _said(label, meaning):
            notes.append(f"{said} ({int((given > 0).sum()):,} images)")
    first = np.array(own)[table.frame["primary"]]
    first = np.where(first < 0, labels.argmax(axis=1), first)
    if broad:
        below = np.array([column[conditions[0]] for conditions in broad])
        first = np.where(labels.any(axis=1), first, below[weights.argmax(axis=1)])
    folder = table.root.resolve().relative_to(root)
    frame = table.frame.assign(
        source=name,
        primary=first,
        image=[(folder / image).as_posix() for image in table.frame["image"]],
        image_id=[f"{name}/{one}" for one in table.frame["image_id"]],
        case=[f"{name}/{one}" for one in table.frame["case"]],
    )
    return replace(table, frame=frame, labels=labels, broad_labels=weights, notes=tuple(notes))


def _said(label: str, meaning: Meaning) -> str:
    """What became of a label, in words; nothing where it is a condition of that name that leaves no other open."""
    others = ", ".join(meaning.open_among)
    if not among(meaning):
        return f"{label!r} means no condition of the mixture"
    if not meaning.condition:
        return f"{label!r} is above {len(meaning.open_among)} conditions and means one of them: {others}"
    counted = "" if meaning.kind == "same name" else f"{label!r} ({meaning.kind}) counts as {meaning.condition!r}"
    still = f"{label!r} leaves open, since the source never names them: {others}" if others else ""
    return "; ".join(part for part in (counted, still) if part)


def _known(table: ImageTable) -> ImageTable:
    """The rows with a condition, or with a label above several that may be trained on."""
    broad = np.zeros(len(table), dtype=bool) if table.broad_labels is None else (table.broad_labels > 0).any(axis=1)
    table = keep_rows(table, ~table.only_broad | broad, "no label of theirs means a condition of the mixture")
    judged = table.frame["source_split"].isin(("val", "test")).to_numpy()
    reason = "no single condition is known, and their own split keeps them for validation or test"
    table = keep_rows(table, ~(table.only_broad & judged), reason)
    alone = int(table.only_broad.sum())
    said = f"of {alone:,} images no single condition is known: they and their cases train, and none judges the model"
    return table.with_notes(said) if alone else table


def _tested(table: ImageTable, name: str) -> ImageTable:
    """One source is ``test``, the others ``train``, without what repeats an image of it."""
    held = (table.frame["source"] == name).to_numpy()
    again = ~held & np.isin(table.cases, table.cases[held])
    if passed_over := int((~held & (table.frame["source_split"] == "test")).sum()):
        table = table.with_notes(
            f"{passed_over:,} images that their sources keep for testing are trained on: another is tested"
        )
    table = keep_rows(table, ~again, f"near-duplicates of images of {name}, which is held out")
    held = (table.frame["source"] == name).to_numpy()
    frame = table.frame.assign(source_split=np.where(held, "test", "train"))
    reason = f"{name}, which is held out: no single condition is known, so there is nothing to test"
    return keep_rows(replace(table, frame=frame), ~(held & table.only_broad), reason)
