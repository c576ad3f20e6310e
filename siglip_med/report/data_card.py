"""The data card of a run: what its images are, where they went, and what was left out, from the split's report."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from siglip_med.core.files import write_text
from siglip_med.core.outside import markdown
from siglip_med.core.provenance import sentence
from siglip_med.data.splitting.report import SplitReport
from siglip_med.data.table import SPLITS

DATA_CARD = "DATA_CARD.md"
_NOT_LOOKED_FOR = {
    "drawings": "Not looked for: each case is drawn anew.",
    "photographs": "Not looked for: `data.source.near_duplicate_distance` puts copies into one case.",
}


def data_card(report: SplitReport, look_alikes: str = "") -> str:
    """The card as Markdown; ``look_alikes`` says how many images look alike across splits, once that is known."""
    r = report
    unasked = sum(item.count for item in r.left_out if not item.asked)
    near = [note for note in r.notes if "near-duplicate" in note or "look-alike" in note]
    lines = [
        f"**{markdown(sentence(r.provenance))}**",
        "",
        "# Data card",
        "",
        *_table(
            ("", ""),
            [
                ("data set", r.provenance.name),
                ("kind", r.provenance.said),
                ("license", r.provenance.license),
                ("file", Path(r.source).name),
                ("split", ", ".join(filter(None, (r.how, f"hash {r.hash[:12]}")))),
            ],
        ),
        "## What became of every row",
        "",
        f"{r.read:,} {r.unit} read = {r.used:,} used + {r.read - r.used:,} left out"
        f"{f', {unasked:,} of them without a setting that asks for it' if unasked else ''}.",
        "",
    ]
    if r.left_out:
        reasons = [(item.reason, f"{item.count:,}", "yes" if item.asked else "no") for item in r.left_out]
        lines += _table(("left out because", r.unit, "asked for"), reasons)
    lines += [*(f"- {markdown(note)}" for note in r.notes), *([""] if r.notes else [])]
    lines += ["## Splits", ""]
    rows = [(name, f"{r.images[name]:,}", f"{r.cases[name]:,}", f"{r.divergence[name]:.4f}") for name in SPLITS]
    lines += _table(("", "images", "cases", "divergence of the labels from the whole (bits)"), rows)
    _, images = r.largest_case  # a case's name may be a patient's: none stands on a card
    lines += [
        f"A case is never split. The largest has {images:,} images ({images / r.used:.1%}). "
        f"{len(r.straddling):,} groups of images that share a case or a file lie in several splits.",
        "",
        "## Near-duplicates",
        "",
        *(map(markdown, near) if near else [_NOT_LOOKED_FOR[r.provenance.kind]]),
        "",
        *(["## Look-alikes", "", markdown(look_alikes), ""] if look_alikes else []),
        "## People",
        "",
        "As the data set gives them: images (cases) by split. A case with several values counts with each.",
        "",
        *_table(("", *SPLITS), people_rows(r)),
        "## Conditions",
        "",
        "Images that list each, by split.",
        "",
        *_table(
            ("condition", *SPLITS), [(name, *(f"{of[split]:,}" for split in SPLITS)) for name, of in r.counts.items()]
        ),
    ]
    if r.missing:
        lines += ["## Missing", ""]
        lines += _table(("condition", "from", "why"), [(m.condition, m.split, m.reason) for m in r.missing])
    return "\n".join(lines).rstrip("\n") + "\n"


def write_data_card(report: SplitReport, folder: Path, look_alikes: str = "") -> Path:
    """Writes ``DATA_CARD.md`` into a run folder, whole or not at all."""
    write_text(folder / DATA_CARD, data_card(report, look_alikes))
    return folder / DATA_CARD


def people_rows(report: SplitReport) -> list[tuple[str, ...]]:
    """Rows of a table: column and value, then images (cases) in each split; what is never given is one row."""
    rows = []
    for column, found in report.people.items():
        for value, of in found.items():
            said = "not given for any image" if set(found) == {""} else value or "not given"
            cells = (f"{of[split][0]:,} ({of[split][1]:,})" for split in SPLITS)
            rows.append((f"{column.replace('_', ' ')}: {said}", *cells))
    return rows


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    body = ["| " + " | ".join(map(markdown, row)) + " |" for row in rows]
    return [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *body, ""]
