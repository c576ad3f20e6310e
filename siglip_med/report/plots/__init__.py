"""Figures of the report and of TensorBoard: plain data in, a matplotlib Figure out."""

from siglip_med.report.plots.calibration import reliability_figure, set_size_figure
from siglip_med.report.plots.comparisons import baselines_figure, conditions_figure, differences_figure, subgroup_figure
from siglip_med.report.plots.curves import curve_panels, curves_figure
from siglip_med.report.plots.embedding import MAP_MINIMUM, Method, embedding_figure, project
from siglip_med.report.plots.matrices import confusion_figure, distance_figure
from siglip_med.report.plots.operating import decision_figure, roc_figure
from siglip_med.report.plots.order import chapter_label, chapters_of, icd_order
from siglip_med.report.plots.photographs import contact_sheet, explanation_figure
from siglip_med.report.plots.style import shorten, to_png

__all__ = [
    "MAP_MINIMUM",
    "Method",
    "baselines_figure",
    "chapter_label",
    "chapters_of",
    "conditions_figure",
    "confusion_figure",
    "contact_sheet",
    "curve_panels",
    "curves_figure",
    "decision_figure",
    "differences_figure",
    "distance_figure",
    "embedding_figure",
    "explanation_figure",
    "icd_order",
    "project",
    "reliability_figure",
    "roc_figure",
    "set_size_figure",
    "shorten",
    "subgroup_figure",
    "to_png",
]
