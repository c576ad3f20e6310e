"""Who is in the study: what became of every row, the cases of each split, and what is known of the people."""

from siglip_med.data.splitting.report import SplitReport
from siglip_med.data.table import SPLITS
from siglip_med.metrics import Predictions
from siglip_med.report.data_card import people_rows
from siglip_med.report.page import Section, Table

_KEPT = ("unit", "read", "used", "left_out", "images", "cases", "people", "notes")
_MISSING = "Not known: there is no split_report.json beside the checkpoint; a run writes it into its folder."


def participants_section(split: SplitReport | None, test: Predictions) -> Section:
    """The flow of images and cases, and the people of each split, as the run counted them."""
    title = "Who is in it?"
    if split is None:
        return Section("participants", title, (_MISSING,))
    judged = len(test)
    rows = [
        (f"read: {split.unit}", f"{split.read:,}", "", ""),
        *((f"left out: {o.reason}", f"−{o.count:,}", "", "yes" if o.asked else "no") for o in split.left_out),
        ("used: images", f"{split.used:,}", f"{sum(split.cases.values()):,}", ""),
        *((f"→ {name}", f"{split.images[name]:,}", f"{split.cases[name]:,}", "") for name in SPLITS),
        ("judged here: images", f"{judged:,}", f"{len(set(test.cases)):,}", ""),
    ]
    said = ["A case is never split; what was left out was so before the split."]
    said += [f"{note}." if not note.endswith(".") else note for note in split.notes]
    if judged != split.images["test"]:
        said.append(f"The test split has {split.images['test']:,} images, but {judged:,} are judged here.")
    tables = [Table("Flow", ("", "images", "cases", "asked for"), tuple(rows))]
    if split.people:
        said.append("People are described as the data set does it; a case with several values counts with each.")
        people = tuple(people_rows(split))
        tables.append(Table("People: images (cases) of each split", ("", *SPLITS), people, tall=True))
    else:
        said.append("Sex, age and skin tone by split are not known: the run is from before they were counted.")
    data = {name: value for name, value in vars(split).items() if name in _KEPT}
    return Section("participants", title, tuple(said), tuple(tables), data=data)
