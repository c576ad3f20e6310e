"""Sections of a report one by one."""

from dataclasses import replace

from siglip_med.metrics import fit_calibration
from siglip_med.report import Page, Section, Table, write_page
from siglip_med.report.evidence import Evidence
from siglip_med.report.sections.conditions import conditions_section
from siglip_med.report.sections.confidence import calibration_section
from tests.report.test_report import SETTINGS, inputs


def test_every_condition_keeps_to_the_smallest_group():
    given = inputs()
    few = Evidence.gather(given, replace(SETTINGS, smallest_group=12))
    found = conditions_section(few)
    cells = {row[0]: row for row in found.tables[0].rows}
    truth, cases = given.test.positive, given.test.cases
    told = set()
    for c, name in enumerate(given.test.conditions):
        listed, primary = (len(set(cases[mask])) for mask in (truth[:, c], given.test.primary == c))
        assert (cells[name][5] == cells[name][6] == "–") == (primary < 12), name
        assert (cells[name][8] == "–") == (listed < 12), name
        assert (cells[name][10] == "–") == (min(listed, len(set(cases[~truth[:, c]]))) < 12), name
        told.add(listed < 12)
    assert told == {True, False}
    assert "fewer than 12 test cases" in found.paragraphs[0]


def test_confidences_that_are_calibrated_already_have_one_column():
    given = inputs()
    fit = fit_calibration(given.val)
    before = calibration_section(Evidence.gather(given, SETTINGS))
    assert before.tables[0].columns == ("", "zero-shot", "this run", "calibrated on validation")
    done = replace(given, test=fit.apply(given.test), val=fit.apply(given.val))
    after = calibration_section(Evidence.gather(done, SETTINGS))
    assert after.tables[0].columns == ("", "zero-shot", "this run")
    assert "changes nothing" in after.paragraphs[1]
    assert [row[-1] for row in after.tables[0].rows] == [row[-1] for row in before.tables[0].rows]
    for section in (before, after):
        assert "refit" not in " ".join((*section.paragraphs, section.figures[0].alternative)).lower()


def test_a_cell_with_a_bar_stays_one_cell(tmp_path):
    table = Table("t", ("a", "b"), (("x | y", "<b>"),))
    write_page(Page("p", "lead", {}, (), (Section("s", "S", tables=(table,)),)), tmp_path, "page")
    assert "| x \\| y | \\<b> |" in (tmp_path / "page.md").read_text()
    assert "&lt;b&gt;" in (tmp_path / "page.html").read_text()
