"""What the metrics are called for people."""

METRIC_LABELS = {
    "r_at_1": "R@1 (accuracy, any listed label)",
    "r_at_5": "R@5 (any listed label)",
    "r_at_1_primary": "R@1, primary label",
    "r_at_5_primary": "R@5, primary label",
    "macro_r_at_1": "macro R@1",
    "macro_r_at_5": "macro R@5",
    "mrr": "mean reciprocal rank",
    "map": "mean average precision",
    "ndcg": "nDCG, label weights",
    "t2i_map": "text-to-image mAP",
    "macro_precision": "macro precision, first prediction",
    "macro_recall": "macro recall, first prediction",
    "macro_f1": "macro F1, first prediction",
    "macro_auc": "macro AUC, one against the rest",
    "icd_distance_all": "ICD distance, all predictions",
    "icd_distance_mistakes": "ICD distance, mistakes alone",
    "icd_distance_top5": "ICD distance, top 5",
    "chapter_accuracy": "chapter accuracy",
    "block_accuracy": "block accuracy",
    "spearman_text_d": "Spearman of text distance and D",
    "spearman_image_d": "Spearman of image distance and D",
    "ece": "calibration error (ECE)",
    "loss": "loss (balanced sigmoid)",
}


def metric_label(name: str) -> str:
    """The metric's name for people; a name that is not in the list without its underscores."""
    return METRIC_LABELS.get(name, name.replace("_", " "))
