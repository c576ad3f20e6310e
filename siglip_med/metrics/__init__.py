"""From predictions to numbers: metrics, intervals, calibration, prediction sets, subgroups and baselines."""

from siglip_med.metrics.auc import auc_per_condition
from siglip_med.metrics.baselines import (
    baseline_predictions,
    chance,
    chance_predictions,
    chance_recall,
    crm,
    label_frequency_predictions,
)
from siglip_med.metrics.bootstrap import (
    Interval,
    PairedResult,
    bootstrap_function,
    bootstrap_intervals,
    bootstrap_mean,
    paired_bootstrap,
)
from siglip_med.metrics.calibration import (
    Calibration,
    calibration_error,
    calibration_metrics,
    fit_calibration,
    reliability_table,
)
from siglip_med.metrics.candidates import CandidateRetrieval, candidate_retrieval, print_sample
from siglip_med.metrics.conformal import ConformalSets, conformal_report, fit_conformal
from siglip_med.metrics.headline import HEADLINE_METRICS, LOWER_IS_BETTER, defined_conditions, headline_metrics
from siglip_med.metrics.hierarchy import label_distance, spearman_embedding_distance, spearman_image_prototypes
from siglip_med.metrics.per_image import per_image_table
from siglip_med.metrics.predictions import Predictions
from siglip_med.metrics.ranking import text_to_image
from siglip_med.metrics.resampling import RESAMPLED_METRICS
from siglip_med.metrics.subgroups import frequency_groups, subgroup_masks, subgroup_metrics, worst_gaps
from siglip_med.metrics.thresholds import (
    choose_thresholds,
    classification_summary,
    classification_table,
    confusion_matrix,
)
from siglip_med.metrics.validation import RetrievalMetrics

__all__ = [
    "HEADLINE_METRICS",
    "LOWER_IS_BETTER",
    "RESAMPLED_METRICS",
    "Calibration",
    "CandidateRetrieval",
    "ConformalSets",
    "Interval",
    "PairedResult",
    "Predictions",
    "RetrievalMetrics",
    "auc_per_condition",
    "baseline_predictions",
    "bootstrap_function",
    "bootstrap_intervals",
    "bootstrap_mean",
    "calibration_error",
    "calibration_metrics",
    "candidate_retrieval",
    "chance",
    "chance_predictions",
    "chance_recall",
    "choose_thresholds",
    "classification_summary",
    "classification_table",
    "conformal_report",
    "confusion_matrix",
    "crm",
    "defined_conditions",
    "fit_calibration",
    "fit_conformal",
    "frequency_groups",
    "headline_metrics",
    "label_distance",
    "label_frequency_predictions",
    "paired_bootstrap",
    "per_image_table",
    "print_sample",
    "reliability_table",
    "spearman_embedding_distance",
    "spearman_image_prototypes",
    "subgroup_masks",
    "subgroup_metrics",
    "text_to_image",
    "worst_gaps",
]
