"""The same metrics for each kind of patient and of condition, and the worst gap between them."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from siglip_med.metrics.bootstrap import Bootstrap
from siglip_med.metrics.headline import headline_metrics
from siglip_med.metrics.names import LOWER_IS_BETTER, RESAMPLED_METRICS
from siglip_med.metrics.predictions import Predictions

NEARNESS = "nearness to training"
"""Quarters of the test images by the cosine of the base's features to the nearest training image, nearest last."""
ATTRIBUTES = ("source", "skin_tone", "sex", "age_group", "site", "frequency", NEARNESS)
UNKNOWN = "unknown"
FREQUENCIES = ("head", "middle", "tail")


def frequency_groups(train_counts: np.ndarray) -> np.ndarray:
    """``[C]`` text, "head", "middle" or "tail": the third of the conditions that each belongs to by training images.

    Thirds, not fixed counts (more than 100, fewer than 20: Liu et al., CVPR 2019), so that every data set has all
    three. Equal counts go by the order of the conditions.
    """
    place = np.empty(len(train_counts), dtype=np.int64)
    place[np.argsort(-train_counts, kind="stable")] = np.arange(len(train_counts))
    return np.asarray(FREQUENCIES)[place * 3 // max(len(train_counts), 1)]


def subgroup_masks(
    predictions: Predictions, attributes: Iterable[str] = ATTRIBUTES
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Every group of every attribute, a column of the frame, "frequency" (of the primary condition) or `NEARNESS`.

    Yields:
        (attribute, group, ``[N]`` bool); an empty text is the group "unknown", which comes last.
    """
    for attribute in attributes:
        if attribute == "source" and attribute not in predictions.frame:
            continue  # one source
        if attribute == "frequency":
            group = frequency_groups(predictions.train_counts)[predictions.primary]
            names = [name for name in FREQUENCIES if (group == name).any()]
        elif attribute == NEARNESS:
            group = _quarters(predictions)
            names = sorted(set(group.tolist()))
        else:
            group = predictions.frame[attribute].to_numpy(dtype=str)
            group = np.where(group == "", UNKNOWN, group)
            names = sorted(set(group.tolist()), key=lambda name: (name == UNKNOWN, name))
        for name in names:
            yield attribute, name, group == name


def _quarters(predictions: Predictions) -> np.ndarray:
    """``[N]`` text, the cosines of each image's quarter; equal cosines are in one."""
    nearest = predictions.nearest
    if not len(nearest):
        return np.full(len(predictions), UNKNOWN)
    quarter = np.searchsorted(np.quantile(nearest, (0.25, 0.5, 0.75)), nearest)
    ends = [(nearest[quarter == place].min(), nearest[quarter == place].max()) for place in quarter]
    return np.array([f"cosine {low:.3f} to {high:.3f}" for low, high in ends])


def subgroup_metrics(
    predictions: Predictions,
    attributes: Iterable[str] = ATTRIBUTES,
    metrics: Iterable[str] = RESAMPLED_METRICS,
    minimum_images: int = 30,
    bootstrap: Bootstrap | None = None,
) -> pd.DataFrame:
    """Headline metrics of every group.

    Args:
        predictions: N images.
        attributes: columns of the frame, "frequency" or `NEARNESS`.
        metrics: names among `RESAMPLED_METRICS`.
        minimum_images: a group with fewer is flagged ``small``.
        bootstrap: gives intervals (columns ``<metric>_low`` and ``<metric>_high``); None for none.

    Returns:
        One row per group: ``attribute``, ``group``, ``images``, ``cases``, ``small``, then the metrics. Means over
        conditions are over those that occur in the group.

    Examples:
        >>> predictions = Predictions.of([[1.0, 0.0]] * 2, [[1, 0]] * 2)
        >>> subgroup_metrics(predictions, ["sex"], ["mrr"]).values.tolist()
        [['sex', 'unknown', 2, 2, True, 1.0]]
    """
    metrics, rows = tuple(metrics), []
    for attribute, name, mask in subgroup_masks(predictions, attributes):
        part = predictions.take(mask)
        row: dict[str, object] = {
            "attribute": attribute,
            "group": name,
            "images": len(part),
            "cases": len(np.unique(part.cases)),
            "small": len(part) < minimum_images,
        }
        if bootstrap is None:
            values = headline_metrics(part)
            row |= {metric: values[metric] for metric in metrics}
        else:
            found = bootstrap.intervals(part, metrics)
            row |= {metric: interval.estimate for metric, interval in found.items()}
            for metric, interval in found.items():
                row |= {f"{metric}_low": interval.low, f"{metric}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def worst_gaps(table: pd.DataFrame, metrics: Iterable[str] = RESAMPLED_METRICS) -> pd.DataFrame:
    """The largest difference between two groups of each attribute.

    "unknown" is no kind of patient and never counts. A small group's value is mostly noise: ``gap`` is between groups
    that are not small, ``gap_with_small`` between all known ones, so that neither hides the other.

    Args:
        table: of `subgroup_metrics`.
        metrics: names among its columns.

    Returns:
        One row per attribute and metric: ``attribute``, ``metric``, ``best``, ``worst`` (groups), ``gap`` (NaN with
        fewer than two groups), ``groups`` (compared), ``small_groups`` (left out), ``gap_with_small``.
    """
    rows = []
    for attribute in dict.fromkeys(table["attribute"]):
        known = table[(table["attribute"] == attribute) & (table["group"] != UNKNOWN)]
        for metric in metrics:
            defined = known[known[metric].notna()]
            large = defined[~defined["small"].astype(bool)]
            small, with_small = len(defined) - len(large), _gap(defined, metric)[2]
            rows.append((attribute, metric, *_gap(large, metric), len(large), small, with_small))
    columns = ["attribute", "metric", "best", "worst", "gap", "groups", "small_groups", "gap_with_small"]
    return pd.DataFrame(rows, columns=columns)


def _gap(groups: pd.DataFrame, metric: str) -> tuple[str, str, float]:
    if len(groups) < 2:
        return "", "", float("nan")
    values = groups[metric].to_numpy(dtype=np.float64)
    low, high = int(values.argmin()), int(values.argmax())
    best, worst = (low, high) if metric in LOWER_IS_BETTER else (high, low)
    names = groups["group"].to_numpy(dtype=str)
    return str(names[best]), str(names[worst]), float(values[high] - values[low])
