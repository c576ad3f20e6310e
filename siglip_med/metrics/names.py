"""Every metric's name, what people call it and which way is better: the one list that tables, figures and logs read."""

from dataclasses import dataclass
from typing import Literal

CHOOSING = "mrr"
"""What chooses a checkpoint and ranks a leaderboard, on validation: however few the conditions, it can still rise."""


BASELINES = {
    "chance": "chance",
    "label_frequency": "class prior",
    "zero_shot": "zero-shot",
    "linear_probe": "linear probe",
    "kernel_probe": "kernel probe",
    "prompts": "prompts",
}
"""What a model is judged beside: the name in JSON and checkpoints, and in tables; ``prompts`` beside a refit alone."""


@dataclass(frozen=True)
class Metric:
    """One metric, as logs and people call it.

    Attributes:
        name: in logs, JSON and Python.
        label: in tables and figures.
        short: in the head of a narrow column.
        group: heading of a report's table.
        chart: TensorBoard chart that it shares with its like.
        lower_is_better: whether the smaller value is the better one.
        resampled: whether it is a function of sums over cases, and so has a bootstrap interval.
        needs: ``order``: an order of the conditions is enough, so chance and the class prior have it; ``scores``: it
            judges scores or embeddings, which a baseline that only ranks does not have.
        k: length of the list that it judges, or None for the whole order. With no more conditions than that it says
            nothing (`saturation`).
        sorts_images: whether it ranks images, not conditions: every score must be sorted, and a resample costs more.
    """

    name: str
    label: str
    short: str
    group: str
    chart: str
    lower_is_better: bool = False
    resampled: bool = True
    needs: Literal["order", "scores"] = "order"
    k: int | None = None
    sorts_images: bool = False


_RETRIEVAL, _CLASSIFICATION, _HIERARCHY, _CONFIDENCE = "Retrieval", "Classification", "ICD hierarchy", "Confidence"

METRICS = (
    Metric("r_at_1", "R@1 (accuracy)", "R@1", _RETRIEVAL, "R@K", k=1),
    Metric("r_at_5", "R@5", "R@5", _RETRIEVAL, "R@K", k=5),
    Metric("r_at_1_primary", "R@1, primary label", "R@1 primary", _RETRIEVAL, "R@K", k=1),
    Metric("r_at_5_primary", "R@5, primary label", "R@5 primary", _RETRIEVAL, "R@K", k=5),
    Metric("macro_r_at_1", "macro R@1", "macro R@1", _RETRIEVAL, "macro R@K", k=1),
    Metric("macro_r_at_5", "macro R@5", "macro R@5", _RETRIEVAL, "macro R@K", k=5),
    Metric("mrr", "mean reciprocal rank (MRR)", "MRR", _RETRIEVAL, "ranking"),
    Metric("map", "mean average precision (mAP)", "mAP", _RETRIEVAL, "ranking"),
    Metric("ndcg", "nDCG, label weights", "nDCG", _RETRIEVAL, "ranking"),
    Metric("t2i_map", "text-to-image mAP", "t2i mAP", _RETRIEVAL, "ranking", sorts_images=True),
    Metric("macro_precision", "macro precision, first prediction", "macro prec.", _CLASSIFICATION, "classification"),
    Metric("macro_recall", "macro recall, first prediction", "macro recall", _CLASSIFICATION, "classification"),
    Metric("macro_f1", "macro F1, first prediction", "macro F1", _CLASSIFICATION, "classification"),
    Metric(
        "macro_auc", "macro AUC, one against the rest", "macro AUC", _CLASSIFICATION, "classification",
        sorts_images=True,
    ),
    Metric(
        "icd_distance_all", "ICD distance, all predictions", "ICD dist.", _HIERARCHY, "ICD distance",
        lower_is_better=True,
    ),
    Metric(
        "icd_distance_mistakes", "ICD distance, mistakes alone", "ICD dist. mistakes", _HIERARCHY, "ICD distance",
        lower_is_better=True,
    ),
    Metric(
        "icd_distance_top5", "ICD distance, top 5 (AHD@5)", "AHD@5", _HIERARCHY, "ICD distance",
        lower_is_better=True, k=5,
    ),
    Metric("hops", "order by ICD distance (HOPS)", "HOPS", _HIERARCHY, "chapter, block and order"),
    Metric("chapter_accuracy", "chapter accuracy", "chapter acc.", _HIERARCHY, "chapter, block and order"),
    Metric("block_accuracy", "block accuracy", "block acc.", _HIERARCHY, "chapter, block and order"),
    Metric(
        "spearman_text_d", "Spearman of text distance and D", "Spearman(text, D)", _HIERARCHY, "embeddings",
        resampled=False, needs="scores",
    ),
    Metric(
        "spearman_image_d", "Spearman of image distance and D", "Spearman(image, D)", _HIERARCHY, "embeddings",
        resampled=False, needs="scores",
    ),
    Metric("ece", "calibration error (ECE)", "ECE", _CONFIDENCE, "calibration", lower_is_better=True, needs="scores"),
    Metric(
        "loss", "loss (balanced sigmoid)", "loss", _CONFIDENCE, "loss",
        lower_is_better=True, resampled=False, needs="scores",
    ),
)  # fmt: skip
"""The headline metrics, in the order in which tables show them."""

_THRESHOLDED = Metric(
    "thresholded_macro_f1", "macro F1, thresholds from validation", "macro F1, thresholds", _CLASSIFICATION,
    "classification", resampled=False, needs="scores",
)  # fmt: skip
_BY_NAME = {metric.name: metric for metric in (*METRICS, _THRESHOLDED)}

HEADLINE_METRICS = tuple(metric.name for metric in METRICS)
RESAMPLED_METRICS = tuple(metric.name for metric in METRICS if metric.resampled)
"""Functions of sums over cases, which have bootstrap intervals."""
LOWER_IS_BETTER = frozenset(metric.name for metric in METRICS if metric.lower_is_better)
NEED_SCORES = frozenset(metric.name for metric in METRICS if metric.needs == "scores")
SORT_IMAGES = frozenset(metric.name for metric in METRICS if metric.sorts_images)

KEY_METRICS = (
    "r_at_1", "r_at_5", "macro_r_at_1", "macro_r_at_5", "mrr", "map", "icd_distance_all", "icd_distance_top5", "hops",
)  # fmt: skip
"""What a run's table, its model card and a leaderboard show first, with intervals where they have them."""
SUMMARY_METRICS = (
    "r_at_1", "r_at_5", "macro_r_at_1", "macro_r_at_5", "mrr", "map", "macro_precision", "macro_recall", "macro_f1",
    "thresholded_macro_f1", "macro_auc", "loss", "icd_distance_all", "icd_distance_mistakes", "icd_distance_top5",
    "hops",
)  # fmt: skip
"""The table at the end of a run."""


def metric_label(name: str, conditions: int | None = None, short: bool = False) -> str:
    """A metric's name for people, with what makes it say nothing; an unknown name without its underscores.

    Examples:
        >>> metric_label("r_at_5")
        'R@5'
        >>> metric_label("r_at_5", conditions=5)
        'R@5 (all 5 conditions: always 1)'
        >>> metric_label("icd_distance_top5", conditions=4, short=True)
        'AHD@5 (all 4 conditions: the same for every order)'
    """
    if name not in _BY_NAME:
        return name.replace("_", " ")
    metric = _BY_NAME[name]
    said = "" if conditions is None else saturation(name, conditions)
    return f"{metric.short if short else metric.label}{f' ({said})' if said else ''}"


def table_label(name: str, conditions: int | None = None, short: bool = False) -> str:
    """`metric_label` with an arrow where lower is better."""
    return f"{metric_label(name, conditions, short)}{' ↓' if name in LOWER_IS_BETTER else ''}"


def saturation(name: str, conditions: int) -> str:
    """Why a metric of the first K says nothing about ``conditions`` conditions; empty where it does.

    Examples:
        >>> saturation("r_at_5", 6)
        ''
        >>> saturation("r_at_5", 5)
        'all 5 conditions: always 1'
    """
    metric = _BY_NAME[name]
    if metric.k is None or conditions > metric.k:
        return ""
    return f"all {conditions} conditions: {'the same for every order' if metric.lower_is_better else 'always 1'}"


def names_by(what: Literal["group", "chart"]) -> dict[str, tuple[str, ...]]:
    """Heading of a report's table, or TensorBoard chart -> names of its headline metrics."""
    headings = dict.fromkeys(getattr(metric, what) for metric in METRICS)
    return {one: tuple(metric.name for metric in METRICS if getattr(metric, what) == one) for one in headings}
