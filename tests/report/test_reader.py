"""What a reader of a diagnostic study asks for: operating points, who is in it, the checklist; dashes where few."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from siglip_med.commands import evaluate
from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from siglip_med.core.provenance import Provenance
from siglip_med.data.accounting import LeftOut
from siglip_med.data.splitting.report import SplitReport, report_split
from siglip_med.data.table import TableRow, build_table
from siglip_med.metrics import YesNo, auc_intervals, operating_points, per_case
from siglip_med.report import Page, ReportInputs, ReportSettings, RunMeta, write_report
from siglip_med.report.checklist import checklist
from siglip_med.report.evidence import Evidence
from siglip_med.report.page import plain
from siglip_med.report.sections.groups import subgroups_section
from siglip_med.report.sections.operating import operating_section
from siglip_med.report.sections.participants import participants_section
from siglip_med.runs.external import read_external
from tests.report.synthetic_run import synthetic_predictions
from tests.short_runs import compose_config

SETTINGS = ReportSettings(bootstrap=20, map_images=20)
CODES = ("C43.9", "D22.9", "C44.91", "C46.0", "")
LETTERS = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}
"""How many parts the items of TRIPOD+AI have that have several."""


def predictions(conditions=12, single=False, codes=CODES, **changes):
    made = synthetic_predictions(conditions=conditions, **({"images": 240} | changes))
    made = replace(made, codes=(codes + made.codes[len(codes) :])[:conditions])
    return replace(made, frame=made.frame.assign(case=made.frame["image_id"])) if single else made


def split_report() -> SplitReport:
    rows = [
        TableRow(f"{n}.png", {"A": 1.0} if n % 2 else {"B": 1.0}, n + 1, case=f"c{n // 2}", sex="male" if n < 5 else "")
        for n in range(12)
    ]
    left = [LeftOut("no condition", 3), LeftOut("filtered", 2, asked=True)]
    table = build_table(rows, root=Path("x"), source="/home/someone/labels.csv", left_out=left)
    return report_split(table, np.repeat(["train", "val", "test"], [6, 2, 4]), table.cases, "abcdef0123456789")


def inputs(**changes) -> ReportInputs:
    given = {"test": predictions(), "val": predictions(seed=1, split="val"), "meta": RunMeta("run", {"model": "tiny"})}
    return ReportInputs(**(given | changes))


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("conditions", [2, 21, 66])
def test_every_cell_is_the_metric_and_few_is_a_dash(conditions, single):
    given = inputs(test=predictions(conditions, single), val=predictions(conditions, single, seed=1, split="val"))
    found = operating_section(Evidence.gather(given, SETTINGS))
    table = next(t for t in found.tables if t.caption.startswith("Every condition"))
    test, val = YesNo.of_conditions(given.test), YesNo.of_conditions(given.val)
    points = operating_points(val, test, SETTINGS.points, 10, SETTINGS.resampling)
    areas = auc_intervals(test, 10, SETTINGS.resampling)
    assert len(table.rows) == conditions
    for name, in_val, in_test, area, *cells in table.rows:
        c = given.test.conditions.index(name)
        asked = [(p, kind) for p in points[c] for kind in ("sensitivity", "specificity")]
        cases = [len(set(one.cases[one.positive[:, c]])) for one in (given.val, given.test)]
        assert [int(in_val), int(in_test)] == cases
        assert (area == "–") == (cases[1] < 10)
        assert area.split()[0] == ("–" if cases[1] < 10 else f"{areas[c].estimate:.3f}")
        for cell, (point, kind) in zip(cells, asked, strict=True):
            value = point.reached[kind].estimate
            assert cell.split()[0] == (f"{value:.2f}" if np.isfinite(value) else "–")
            assert ("[" in cell) == np.isfinite(value)
        assert (cells[0] == "–") == (cases[1] < 10)  # sensitivity at a specificity: no positive of validation is needed
        assert (cells[2] == "–") == (min(cases) < 10)
    units = [row[0].split(",")[0] for row in found.tables[0].rows]
    assert set(units) == ({"per image"} if single else {"per image", "per case"})


def test_malignant_is_said_by_name_with_what_counts_to_the_rest():
    found = operating_section(Evidence.gather(inputs(), SETTINGS))
    text = " ".join(found.paragraphs)
    assert "Condition 0 (C43.9), Condition 2 (C44.91). The score" in text
    assert "malignant or in situ neoplasms: Condition 3 (C46.0)" in text
    assert "for want of a code: Condition 4." in text
    assert {figure.name for figure in found.figures} == {"roc", "decision_curve"}
    evidence = Evidence.gather(inputs(), replace(SETTINGS, malignant=("C43", "C44", "C46")))
    found = operating_section(evidence).data["malignant"]
    assert found["conditions"] == ["Condition 0", "Condition 2", "Condition 3"]
    test = per_case(inputs().test)
    sizes = found["per case"]["cases"]["test"]
    assert sizes[1] == test.positive[:, [0, 2, 3]].any(axis=1).sum()


def test_without_a_malignant_condition_there_is_no_number():
    benign = ("D22.9", "L40.0")
    given = inputs(test=predictions(2, codes=benign), val=predictions(2, codes=benign, seed=1, split="val"))
    found = operating_section(Evidence.gather(given, SETTINGS))
    assert "nothing to say" in " ".join(found.paragraphs)
    assert len(found.tables) == 1
    assert not found.figures


def test_few_malignant_cases_give_dashes_and_no_curve():
    found = operating_section(Evidence.gather(inputs(), replace(SETTINGS, smallest_group=500)))
    numbers = plain(found.data)
    for one in numbers["malignant"]["per image"], numbers["malignant"]["per case"]:
        assert one["curve"] is None
        assert one["auc"] == {"estimate": None, "low": None, "high": None}
        assert all(value["estimate"] is None for p in one["points"] for value in p["reached"].values())
    assert all(cell == "–" for row in found.tables[0].rows for cell in row[1:])
    assert not found.figures
    assert "has 500 cases" in found.paragraphs[-1]
    assert "0 of 12 conditions" in found.paragraphs[-1]


def test_a_group_of_patients_under_the_smallest_has_no_numbers():
    test = predictions()
    tone = np.where(test.cases == test.cases[0], "6", "1")
    given = inputs(test=replace(test, frame=test.frame.assign(skin_tone=tone)))
    found = subgroups_section(Evidence.gather(given, SETTINGS))
    rows = {row[0]: row[3:] for row in found.tables[1].rows}
    assert set(rows["skin tone: 6"]) == {"–"}
    assert "[" in rows["skin tone: 1"][-1]  # calibration error, with its interval
    assert "so without numbers: skin tone 6" in found.paragraphs[0]


def test_the_flow_adds_up_and_people_are_those_of_the_table(tmp_path):
    split_report().save(tmp_path / "split_report.json")
    split = SplitReport.load(tmp_path / "split_report.json")
    assert split == split_report()
    found = participants_section(split, predictions())
    rows = {row[0]: row[1:3] for row in found.tables[0].rows}
    assert rows["read: rows"][0] == "17"
    assert rows["left out: no condition"][0] == "−3"
    assert rows["used: images"] == ("12", "6")
    assert [rows[f"→ {name}"] for name in ("train", "val", "test")] == [("6", "3"), ("2", "1"), ("4", "2")]
    people = {row[0]: row[1:] for row in found.tables[1].rows}
    assert people["sex: male"] == ("5 (3)", "0 (0)", "0 (0)")
    assert people["sex: not given"] == ("1 (1)", "2 (1)", "4 (2)")
    assert people["site: not given for any image"] == ("6 (3)", "2 (1)", "4 (2)")
    assert "The test split has 4 images, but 240 are judged here." in found.paragraphs
    assert "someone" not in json.dumps(found.data, default=str)


def test_an_earlier_run_or_none_says_what_is_not_known(tmp_path):
    assert SplitReport.load(tmp_path / "split_report.json") is None
    assert "Not known" in participants_section(None, predictions()).paragraphs[0]
    split_report().save(tmp_path / "split_report.json")
    old = json.loads((tmp_path / "split_report.json").read_text())
    del old["people"]
    (tmp_path / "split_report.json").write_text(json.dumps(old | {"skin_tones": {}}))
    split = SplitReport.load(tmp_path / "split_report.json")
    assert "are not known" in participants_section(split, predictions()).paragraphs[-1]
    (tmp_path / "split_report.json").write_text("{}")
    with pytest.raises(UserError, match=r"split_report\.json: this report of a split is damaged"):
        SplitReport.load(tmp_path / "split_report.json")


def test_the_checklist_has_all_items_each_filled_or_for_the_authors(tmp_path):
    drawn = replace(predictions(), provenance=Provenance("drawings", "Ours", "CC0"))
    config = {"seed": 7, "loss": {"_target_": "a.b.Loss", "weight": 2, "file": "/home/someone/x"}, "refit": None}
    where = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    external = {"clinic": {"judged": [20, 10], "compared": {"r_at_1": {"external": where}, "mrr": {"external": where}}}}
    given = inputs(test=drawn, split=split_report(), meta=RunMeta("run", {}, config), external=external)
    page = write_report(given, tmp_path, SETTINGS, with_checklist=True)
    assert 'href="checklist.md"' in page.read_text()
    text = (tmp_path / "checklist.md").read_text()
    cells = [line.strip("|").split(" | ", 1) for line in text.splitlines() if re.match(r"\| \d", line)]
    rows = {number.strip(): row.removesuffix(" ") for number, row in cells}
    parts = {number: "abcdefg"[:letters] for number, letters in LETTERS.items()}
    assert list(rows) == [f"{number}{part}".strip() for number in range(1, 28) for part in parts.get(number, " ")]
    for number, row in rows.items():
        assert row.split(" | ")[1].strip(), number
    assert text.startswith("**Made from DRAWINGS")
    assert "seed 7;" in rows["12c"]
    assert "checkpoint chosen by not recorded in this run's files" in rows["12c"]
    assert "last layer: none" in rows["12c"]
    assert "Loss (weight=2)" in rows["13"]
    assert "17 rows read, 12 used; 3 left out: no condition; 2 left out: filtered" in rows["6b"]
    assert "train 6 images of 3 cases" in rows["10"]
    assert "clinic, 20 images of 10 cases: R@1 0.500 [0.400, 0.600]" in rows["20c"]
    assert "someone" not in text
    for number in ("1", "2", "5b", "8b", "17", "18a", "19", "25", "27c"):
        assert rows[number].endswith("**for the authors**")
    assert "no external validation" in checklist(
        replace(given, external={}), Page("x", "", {"conditions": "2"}, (), ())
    )


def test_a_damaged_external_validation_stops(tmp_path):
    assert read_external(tmp_path) == {}
    place = tmp_path / "external" / "clinic"
    place.mkdir(parents=True)
    (place / "metrics.json").write_text('{"judged": [1, 1]}')
    with pytest.raises(UserError, match=r"clinic/metrics\.json cannot be read"):
        read_external(tmp_path)


def test_a_checklist_is_of_one_run_and_wrong_settings_are_named(tmp_path):
    def asked(*overrides):
        return typed(compose_config(f"paths.output_dir={tmp_path}", *overrides, name="evaluate"), evaluate.Settings)

    with pytest.raises(UserError, match="checklist=true is filled in of one run"):
        evaluate.run(asked("compare=[a,b]", "checklist=true"))
    for wrong in ("malignant=[C4]", "smallest_group=0", "specificity=1.0", "sensitivity=0"):
        with pytest.raises(UserError, match=f"report.{wrong.split('=')[0]}"):
            asked(f"report.{wrong}")
