"""The report: one HTML page, the same as Markdown and JSON."""

from siglip_med.report.build import REPORT_NAME, build_report, write_report
from siglip_med.report.inputs import ReportInputs, ReportSettings, RunMeta, read_curves
from siglip_med.report.page import Card, Figure, Link, Page, Section, Table, write_page

__all__ = [
    "REPORT_NAME",
    "Card",
    "Figure",
    "Link",
    "Page",
    "ReportInputs",
    "ReportSettings",
    "RunMeta",
    "Section",
    "Table",
    "build_report",
    "read_curves",
    "write_page",
    "write_report",
]
