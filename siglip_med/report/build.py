"""Puts a report together."""

import os
from dataclasses import replace
from pathlib import Path

from siglip_med.core.files import write_text
from siglip_med.core.provenance import sentence
from siglip_med.report.checklist import CHECKLIST, checklist
from siglip_med.report.evidence import Evidence
from siglip_med.report.inputs import ReportInputs, ReportSettings
from siglip_med.report.page import Page, Section, write_page
from siglip_med.report.sections.cases import cases_section
from siglip_med.report.sections.conditions import conditions_section, confusion_section
from siglip_med.report.sections.confidence import calibration_section, familiarity_section, prediction_sets_section
from siglip_med.report.sections.explanations import mistakes_section
from siglip_med.report.sections.groups import subgroups_section
from siglip_med.report.sections.headline import cards, headline_section, lead
from siglip_med.report.sections.hierarchy import hierarchy_section
from siglip_med.report.sections.operating import operating_section
from siglip_med.report.sections.participants import participants_section
from siglip_med.report.sections.pictures import curves_section, embedding_section, photographs_section

REPORT_NAME = "report"
_LIMITS = (
    "These numbers are of one split of one data set, labeled from photographs; they say nothing about other "
    "cameras, clinics or populations. This is a research tool, not a medical device: no number here supports a "
    "diagnosis.",
    "Only this test split was judged, once, by the checkpoint that validation chose. p-values are not "
    "corrected for the number of metrics; choose the one that matters before looking.",
)


def build_report(inputs: ReportInputs, settings: ReportSettings) -> Page:
    """Judges a run and puts what was found into sections.

    Raises:
        UserError: a split has no image, the runs do not match, or a photograph that was asked for cannot be read.
    """
    evidence = Evidence.gather(inputs, settings)
    sections: list[Section] = [
        headline_section(evidence),
        *([cases_section(evidence)] if evidence.case_intervals else []),
        operating_section(evidence),
        subgroups_section(evidence),
        hierarchy_section(evidence),
        confusion_section(evidence),
        conditions_section(evidence),
        calibration_section(evidence),
        prediction_sets_section(evidence),
        familiarity_section(evidence),
        embedding_section(evidence),
        curves_section(inputs),
        participants_section(inputs.split, evidence.test),
    ]
    if settings.images:
        sections.append(photographs_section(evidence, inputs))
        if inputs.explanations or inputs.explanation_notes:
            sections.append(mistakes_section(inputs))
    data = {"config": inputs.meta.config, "settings": dict(vars(settings)), "name": inputs.meta.name}
    sections.append(Section("limits", "What this report cannot say", _LIMITS, data=data))
    given = evidence.answers
    facts = dict(inputs.meta.facts) | {
        "test split": inputs.test.size,
        "validation split": inputs.val.size,
        **({"split": inputs.split.how} if inputs.split is not None and inputs.split.how else {}),
        "conditions": str(len(inputs.test.conditions)),
        "most frequent answer": f"{given.most_frequent}, {given.share:.0%} of images ({given.listed:.0%} list it)",
        "look-alikes": inputs.test.meta.get(
            "look_alikes", "not looked for (data.look_alikes, evaluation.probe_images)"
        ),
        "conditions never answered": f"{len(given.never)} of {given.present} in the test split",
    }
    return Page(
        title=f"Evaluation of {inputs.meta.name}",
        lead=lead(evidence),
        facts=facts,
        cards=cards(evidence),
        sections=tuple(sections),
        notice=sentence(inputs.test.provenance),
        verdict=evidence.verdict,
    )


def write_report(
    inputs: ReportInputs, folder: Path, settings: ReportSettings | None = None, with_checklist: bool = False
) -> Path:
    """Writes ``report.html`` (self-contained), ``report.md`` with ``figures/``, and ``report.json``, or nothing.

    ``with_checklist``: ``checklist.md`` too; see `siglip_med.report.checklist`.

    Nothing is written before the whole report is built; errors are those of `build_report`.

    Returns:
        Path of the HTML page.
    """
    page = build_report(inputs, settings or ReportSettings())
    if inputs.data_card is not None:
        card = os.path.relpath(inputs.data_card.resolve(), folder.resolve())
        page = replace(page, links={"data card: what the images are, and what was left out": Path(card).as_posix()})
    if with_checklist:
        page = replace(page, links={**page.links, "TRIPOD+AI checklist, filled in as far as a program can": CHECKLIST})
        write_text(folder / CHECKLIST, checklist(inputs, page))
    return write_page(page, folder, REPORT_NAME)
