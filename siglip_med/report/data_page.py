"""The page of `siglip-med-check`: a data set as a run would use it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from siglip_med.data.look_alike_files import LookAlikes
from siglip_med.data.splitting.report import SplitReport
from siglip_med.data.table import SPLITS, ImageTable
from siglip_med.report.page import Card, Figure, Page, Section, Table
from siglip_med.report.sections.look_alike_pairs import look_alike_pairs_section
from siglip_med.report.sections.pictures import NOT_TO_PUBLISH, sheet

_SHOWN = 12
_LISTED = 30


@dataclass(frozen=True)
class DataFindings:
    """What was found of N images; ``copies`` is ``[K, 3]``: row, row, bits of near-duplicates of different cases.

    ``bits``: in use of photographs with 16 per channel.
    """

    table: ImageTable
    report: SplitReport
    parts: np.ndarray
    bad: Sequence[tuple[str, str]]
    faults: Mapping[str, np.ndarray]
    copies: np.ndarray
    prompts: Sequence[Sequence[str]]
    prompt_notes: Sequence[str]
    thumbnails: bool
    bits: int
    look_alikes: LookAlikes | None = None

    @property
    def torn(self) -> int:
        """How many of the near-duplicates the split separates."""
        return int((self.parts[self.copies[:, 0]] != self.parts[self.copies[:, 1]]).sum())


def findings_lines(findings: DataFindings) -> list[str]:
    """What was found, a line each: for the screen."""
    f = findings
    lines = [*f.report.account()]
    lines += [f"{len(f.bad):,} files give no image, the first {f.bad[0][0]}: {f.bad[0][1]}"] if f.bad else []
    lines += [f"{len(rows):,} images are {name}" for name, rows in f.faults.items() if len(rows)]
    lines.append(f"{len(f.copies):,} pairs of near-duplicates are of different cases; the split separates {f.torn:,}")
    lines += list(f.look_alikes.notes) if f.look_alikes is not None else []
    lines += list(f.prompt_notes)
    gaps = [item for item in f.report.missing if item.split != "train"]  # those of training are in the account
    lines += [f"{item.condition} is missing from {item.split}: {item.reason}" for item in gaps]
    return lines


def build_data_page(findings: DataFindings) -> Page:
    """Puts what was found into sections; a UserError where a photograph that was asked for cannot be read."""
    f, r = findings, findings.report
    cards = (
        Card("used", f"{r.used:,}", f"of {r.read:,} {r.unit}", f"{r.read - r.used:,} left out"),
        Card("cases", f"{len(set(f.table.cases)):,}", f"largest {r.largest_case[1]:,} images", "never split"),
        Card("conditions", str(len(f.table.conditions)), f"{len(r.missing)} gaps", "condition missing from a split"),
        Card("copies", f"{len(f.copies):,}", f"{f.torn:,} across splits", "near-duplicates of different cases"),
    )
    alike = (
        [look_alike_pairs_section(f.table, f.look_alikes, f.thumbnails, f.bits)] if f.look_alikes is not None else []
    )
    sections = (_account(f), _conditions(f), _cases(f), _images(f), _copies(f), *alike, _prompts(f))
    lead = "What a run would train and test on, and what looks wrong before it does."
    facts = {"data": r.source, "split": r.hash[:12]} | {name: f"{r.images[name]:,} images" for name in SPLITS}
    return Page("Data check", lead, facts, cards, sections)


def _account(f: DataFindings) -> Section:
    rows = tuple((item.reason, f"{item.count:,}", "yes" if item.asked else "no") for item in f.report.left_out)
    tables = [Table("What was left out", ("reason", "count", "asked for"), rows)] if rows else []
    if f.bad:
        tables.append(Table("Files that give no image", ("file", "reason"), tuple(f.bad[:_LISTED]), text_columns=2))
    said = tuple(line.removeprefix("- ") for line in f.report.account())
    return Section("account", "What became of every row", said, tuple(tables))


def _conditions(f: DataFindings) -> Section:
    r = f.report
    counts = tuple(
        (name, *(f"{by_split[split]:,}" for split in SPLITS), f"{sum(r.primary_counts[name].values()):,}")
        for name, by_split in r.counts.items()
    )
    listed = f.table.labels > 0
    pairs: Counter[tuple[str, str]] = Counter()
    for row in listed[listed.sum(axis=1) > 1]:
        pairs.update(combinations(np.array(f.table.conditions)[row].tolist(), 2))
    together = tuple((a, b, f"{count:,}") for (a, b), count in pairs.most_common(_LISTED))
    tables = [Table("Images that list it", ("condition", *SPLITS, "comes first"), counts, tall=True)]
    if together:
        tables.append(Table("Listed together", ("condition", "condition", "images"), together, 2, tall=True))
    if r.missing:
        gaps = tuple((item.condition, item.split, item.reason) for item in r.missing)
        tables.append(Table("Missing", ("condition", "from", "why"), gaps, text_columns=3))
    said = (
        f"Jensen-Shannon divergence of the label shares from the whole: train {r.divergence['train']:.4f}, val "
        f"{r.divergence['val']:.4f}, test {r.divergence['test']:.4f} bits. "
        f"{listed.sum(axis=1).mean():.2f} labels an image."
    )
    return Section("conditions", "Conditions and the split", (said,), tuple(tables))


def _cases(f: DataFindings) -> Section:
    names, counts = np.unique(f.table.cases, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_SHOWN]
    rows = tuple((str(names[i]), f"{counts[i]:,}", f"{counts[i] / counts.sum():.1%}") for i in order)
    return Section("cases", "Largest cases", (), (Table("Largest cases", ("case", "images", "share"), rows),))


def _images(f: DataFindings) -> Section:
    images = f.table.frame["image"]
    rows = tuple((name, f"{len(found):,}", ", ".join(images.iloc[found[:3]])) for name, found in f.faults.items())
    figures = []
    if f.thumbnails:
        for name, found in f.faults.items():
            lines = [(images.iloc[row], name, images.iloc[row]) for row in found[:_SHOWN]]
            figures += sheet(
                f.table.root, name.replace(" ", "_"), lines, f"Images that are {name}, the worst first.", f.bits
            )
    return Section(
        "images",
        "Images that look wrong",
        (NOT_TO_PUBLISH,) if f.thumbnails else (),
        (Table("Images", ("they are", "images", "first"), rows),),
        tuple(figures),
    )


def _copies(f: DataFindings) -> Section:
    images, cases = f.table.frame["image"], f.table.cases
    rows = tuple(
        (images.iloc[a], images.iloc[b], f"{cases[a]} / {cases[b]}", f"{f.parts[a]} / {f.parts[b]}", str(bits))
        for a, b, bits in f.copies[:_LISTED].tolist()
    )
    columns = ("image", "image", "cases", "splits", "bits")
    tables = (Table("Nearest pairs", columns, rows, text_columns=4),) if rows else ()
    said = f"{len(f.copies):,} pairs of near-duplicates are of different cases; the split separates {f.torn:,} of them."
    advice = "data.source.near_duplicate_distance=4 puts such pairs into one case."
    figures: list[Figure] = []
    if f.thumbnails:
        lines = [
            (images.iloc[row], f"pair {number}: {f.parts[row]}", str(cases[row]))
            for number, pair in enumerate(f.copies[: _SHOWN // 2].tolist(), start=1)
            for row in pair[:2]
        ]
        figures += sheet(f.table.root, "copies", lines, "Nearest pairs, side by side.", f.bits)
    return Section("copies", "Near-duplicates of different cases", (said, advice), tables, tuple(figures))


def _prompts(f: DataFindings) -> Section:
    rows = tuple((name, sentences[0]) for name, sentences in zip(f.table.conditions, f.prompts, strict=True))
    table = Table("First prompt of each condition", ("condition", "prompt"), rows, text_columns=2, tall=True)
    return Section("prompts", "Prompts", tuple(f.prompt_notes), (table,))
