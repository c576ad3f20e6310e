"""From predictions to numbers: metrics, intervals, calibration, prediction sets, subgroups and baselines."""

from siglip_med.metrics.answers import Answers, answers
from siglip_med.metrics.baselines import chance, chance_intervals, crm, label_frequency_predictions
from siglip_med.metrics.bootstrap import Bootstrap, Interval, PairedResult
from siglip_med.metrics.calibration import Calibration, calibration_metrics, fit_calibration, reliability_table
from siglip_med.metrics.candidates import candidate_retrieval, print_sample
from siglip_med.metrics.cases import (
    IN_CASES,
    PER_CASE,
    against_images,
    case_metrics,
    has_cases,
    per_case,
)
from siglip_med.metrics.conformal import conformal_report, fit_conformal, nonconformity
from siglip_med.metrics.ensemble import join_predictions
from siglip_med.metrics.external import (
    DRAWS,
    REWEIGHTED,
    SET_METRICS,
    Compared,
    Explained,
    PriorByEM,
    Yardstick,
    adjust_prior,
    compare_external,
    label_some,
    rank_own_labels,
)
from siglip_med.metrics.headline import defined_conditions, headline_metrics
from siglip_med.metrics.hierarchy import label_distance, spearman_embedding_distance
from siglip_med.metrics.kernel_ridge import fit_kernel_ridge
from siglip_med.metrics.label_errors import find_label_errors
from siglip_med.metrics.malignancy import MALIGNANT, RISKS, DecisionCurve, decision_curve, malignant, malignant_question
from siglip_med.metrics.names import (
    BASELINES,
    CHOOSING,
    HEADLINE_METRICS,
    KEY_METRICS,
    LOWER_IS_BETTER,
    NEED_SCORES,
    RESAMPLED_METRICS,
    SUMMARY_METRICS,
    metric_label,
    names_by,
    saturation,
    table_label,
)
from siglip_med.metrics.nearness import (
    FAR_HALF,
    IN_FAR_HALF,
    IN_UNFAMILIAR,
    far_half,
    far_half_metrics,
    without_unfamiliar,
)
from siglip_med.metrics.operating_points import (
    REACHED,
    Fixed,
    OperatingPoint,
    YesNo,
    auc_intervals,
    operating_points,
)
from siglip_med.metrics.per_image import write_per_image
from siglip_med.metrics.predictions import FRAME_COLUMNS, Predictions
from siglip_med.metrics.probe import fit_probe
from siglip_med.metrics.ranking import best_rank, condition_order, condition_ranks, text_to_image
from siglip_med.metrics.resampling import CaseStatistics
from siglip_med.metrics.retrieval import RetrievalMetrics
from siglip_med.metrics.subgroups import NEARNESS, UNKNOWN, subgroup_metrics, worst_gaps
from siglip_med.metrics.thresholds import (
    choose_thresholds,
    classification_summary,
    classification_table,
    confusion_matrix,
)

__all__ = [
    "BASELINES",
    "CHOOSING",
    "DRAWS",
    "FAR_HALF",
    "FRAME_COLUMNS",
    "HEADLINE_METRICS",
    "IN_CASES",
    "IN_FAR_HALF",
    "IN_UNFAMILIAR",
    "KEY_METRICS",
    "LOWER_IS_BETTER",
    "MALIGNANT",
    "NEARNESS",
    "NEED_SCORES",
    "PER_CASE",
    "REACHED",
    "RESAMPLED_METRICS",
    "REWEIGHTED",
    "RISKS",
    "SET_METRICS",
    "SUMMARY_METRICS",
    "UNKNOWN",
    "Answers",
    "Bootstrap",
    "Calibration",
    "CaseStatistics",
    "Compared",
    "DecisionCurve",
    "Explained",
    "Fixed",
    "Interval",
    "OperatingPoint",
    "PairedResult",
    "Predictions",
    "PriorByEM",
    "RetrievalMetrics",
    "Yardstick",
    "YesNo",
    "adjust_prior",
    "against_images",
    "answers",
    "auc_intervals",
    "best_rank",
    "calibration_metrics",
    "candidate_retrieval",
    "case_metrics",
    "chance",
    "chance_intervals",
    "choose_thresholds",
    "classification_summary",
    "classification_table",
    "compare_external",
    "condition_order",
    "condition_ranks",
    "conformal_report",
    "confusion_matrix",
    "crm",
    "decision_curve",
    "defined_conditions",
    "far_half",
    "far_half_metrics",
    "find_label_errors",
    "fit_calibration",
    "fit_conformal",
    "fit_kernel_ridge",
    "fit_probe",
    "has_cases",
    "headline_metrics",
    "join_predictions",
    "label_distance",
    "label_frequency_predictions",
    "label_some",
    "malignant",
    "malignant_question",
    "metric_label",
    "names_by",
    "nonconformity",
    "operating_points",
    "per_case",
    "print_sample",
    "rank_own_labels",
    "reliability_table",
    "saturation",
    "spearman_embedding_distance",
    "subgroup_metrics",
    "table_label",
    "text_to_image",
    "without_unfamiliar",
    "worst_gaps",
    "write_per_image",
]
