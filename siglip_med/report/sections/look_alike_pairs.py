"""Pairs at falling cosines, for a person who decides from where images count as look-alikes."""

import numpy as np

from siglip_med.data.look_alike_files import LookAlikes
from siglip_med.data.look_alikes import SURE
from siglip_med.data.table import ImageTable
from siglip_med.report.page import Section, Table, number, percent
from siglip_med.report.sections.pictures import NOT_TO_PUBLISH, sheet

_A_BIN, _BINS = 3, 15


def look_alike_pairs_section(table: ImageTable, found: LookAlikes, thumbnails: bool, bits: int) -> Section:
    """Agreement of labels by cosine, the threshold, and pairs side by side where photographs may be shown."""
    agreement, listed = found.agreement, found.listed
    bins = zip(agreement.low, agreement.pairs, agreement.agree, agreement.above_chance, strict=True)
    rows = tuple((f"{low:.2f}", f"{pairs:,}", percent(agree), number(above, 2)) for low, pairs, agree, above in bins)
    said = [
        f"Threshold: {'none' if found.threshold is None else f'{found.threshold:.3f}'}.",
        *found.notes,
        f"Proposed is the lowest cosine down to which, bin by bin, labels agree at least {SURE:g} above chance "
        f"({percent(agreement.chance)} of pairs of different cases): (agreement - chance) / (1 - chance). Labels "
        "cannot prove that a lesion is the same: look at the pairs.",
        "Write yes or no into the column same of look_alikes.csv where you decide otherwise, and give the file back: "
        "same=…/look_alikes.csv. A run takes the groups as data.source.group_column=look_alike_group of groups.csv.",
    ]
    figures = []
    if thumbnails and len(listed):
        place = np.floor(listed["cosine"] * 50)
        lines = [
            (listed[f"image_{end}"][row], f"pair {row + 1}: {listed['cosine'][row]:.3f}", listed[f"labels_{end}"][row])
            for low in sorted(set(place), reverse=True)[:_BINS]
            for row in np.flatnonzero(place == low)[:_A_BIN]
            for end in "ab"
        ]
        figures = sheet(table.root, "look_alikes", lines, "Pairs side by side, the most alike first.", bits)
        said.append(NOT_TO_PUBLISH)
    shown = Table("By cosine", ("cosine from", "pairs", "labels agree", "above chance"), rows, tall=True)
    return Section("look_alikes", "Look-alikes of different cases", tuple(said), (shown,), tuple(figures))
