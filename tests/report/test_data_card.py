"""The data card says what the split's report holds: every count is the table's."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from siglip_med.core.provenance import Provenance
from siglip_med.data.accounting import LeftOut
from siglip_med.data.splitting.report import SplitReport, report_split
from siglip_med.data.table import TableRow, build_table
from siglip_med.report.data_card import data_card


def report() -> SplitReport:
    tones = ("1", "1", "6", "", "6", "1")
    sexes = ("female", "female", "male", "male", "female", "female")
    rows = [
        TableRow(f"{n}.png", {"Acne": 1.0} if n % 2 else {"A|B": 1.0}, n + 1, case=case, skin_tone=tone, sex=sex)
        for n, (case, tone, sex) in enumerate(zip(("c0", "c0", "c2", "c3", "c4", "c5"), tones, sexes, strict=True))
    ]
    left = [LeftOut("no condition", 3), LeftOut("filtered", 2, asked=True)]
    table = build_table(rows, root=Path("x"), source="/home/someone/labels.csv", left_out=left, notes=["one note"])
    table = replace(table, provenance=Provenance("photographs", "Ours", "CC0"))
    parts = np.array(["train", "train", "train", "val", "val", "test"])
    return report_split(table, parts, table.cases, "abcdef0123456789")


def test_every_count_is_the_tables():
    text = data_card(report())
    assert text.startswith("**Made from photographs of people: Ours, license: CC0.**\n")
    for line in (
        "| license | CC0 |",
        "11 rows read = 6 used + 5 left out, 3 of them without a setting that asks for it.",
        "| no condition | 3 | no |",
        "| filtered | 2 | yes |",
        "- one note",
        "| val | 2 | 2 |",
        "| skin tone: 6 | 1 (1) | 1 (1) | 0 (0) |",
        "| skin tone: not given | 0 (0) | 1 (1) | 0 (0) |",
        "| sex: female | 2 (1) | 1 (1) | 1 (1) |",
        "| sex: male | 1 (1) | 1 (1) | 0 (0) |",
        "| site: not given for any image | 3 (2) | 2 (2) | 1 (1) |",
        "| Acne | 1 | 1 | 1 |",
        "| A\\|B | 2 | 1 | 0 |",
        "Not looked for",
    ):
        assert line in text, line
    assert "| A|B |" not in text
    assert "/home/someone" not in text


def test_no_card_names_a_case_and_the_size_stands_for_it():
    said = report()
    for text in (data_card(said), "\n".join(said.account())):  # a model card repeats the account
        assert "has 2 images (33.3%)" in text
        assert not any(f"c{number}" in text for number in range(6))
