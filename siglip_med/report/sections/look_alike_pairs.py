"""Pairs at falling cosines, for a person who decides from where images count as look-alikes."""

import numpy as np

from siglip_med.data.look_alike_files import LookAlikes
from siglip_med.data.look_alikes import SURE
from siglip_med.data.table import ImageTable
from siglip_med.report.page import NOT_DEFINED, Figure, Section, Table, number, percent
from siglip_med.report.sections.pictures import NOT_TO_PUBLISH, sheet

_A_BIN, _BINS, _WIDTH = 3, 15, 0.01


def look_alike_pairs_section(table: ImageTable, found: LookAlikes, thumbnails: bool) -> Section:
    """Agreement of labels by cosine, the threshold, and pairs side by side where photographs may be shown."""
    agreement, images = found.agreement, table.frame["image"]
    chance = percent(agreement.chance)
    rows = tuple(
        (f"{low:.2f}", f"{pairs:,}", percent(share) if pairs else NOT_DEFINED, number(above if pairs else None, 2))
        for low, pairs, share, above in zip(
            agreement.low.tolist(), agreement.pairs.tolist(), agreement.agree, agreement.above_chance, strict=True
        )
    )
    rule = (
        f"Proposed is the lowest cosine down to which, bin by bin, labels agree at least {SURE:g} above chance "
        f"({chance} of pairs of different cases): (agreement - chance) / (1 - chance). Labels cannot prove that a "
        "lesion is the same: look at the pairs."
    )
    figures: list[Figure] = []
    if thumbnails and len(found.pairs.rows):
        bins = np.floor((1 - found.pairs.cosines + 1e-9) / _WIDTH).astype(int)
        chosen = [row for place in np.unique(bins)[:_BINS] for row in np.flatnonzero(bins == place)[:_A_BIN]]
        lines = [
            (images.iloc[image], f"{found.pairs.cosines[row]:.3f} pair {row + 1}", table.conditions[primary])
            for row in chosen
            for image in found.pairs.rows[row].tolist()
            for primary in [int(table.frame["primary"].iloc[image])]
        ]
        figures += sheet(table.root, "look_alikes", lines, "Pairs side by side, the most alike first; pair n is row n.")
    how = (
        "Write yes or no into the column same of look_alikes.csv where you decide otherwise, and give the file back: "
        "same=…/look_alikes.csv. A run takes the groups as data.source.group_column=look_alike_group of groups.csv."
    )
    decided = "none proposed" if found.threshold is None else f"{found.threshold:.3f}"
    decided += " (data.look_alikes_threshold)" if found.given else ""
    said = (f"Threshold: {decided}.", *found.notes, rule, how, *((NOT_TO_PUBLISH,) if thumbnails else ()))
    columns = ("cosine from", "pairs", "labels agree", "above chance")
    return Section(
        "look_alikes",
        "Look-alikes of different cases",
        said,
        (Table("Agreement of labels by cosine", columns, rows, tall=True),),
        tuple(figures),
        data={"threshold": found.threshold, "chance": agreement.chance, "notes": found.notes},
    )
