"""What each case adds to each headline metric: one pass over the images, then a resample is a few matrix products."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit

from siglip_med.metrics.auc import OneVsRest
from siglip_med.metrics.blocks import blocks
from siglip_med.metrics.calibration import BINS, confidence_bins
from siglip_med.metrics.hierarchy import hops, label_distance, same_ancestor
from siglip_med.metrics.names import RESAMPLED_METRICS, SORT_IMAGES
from siglip_med.metrics.predictions import Predictions
from siglip_med.metrics.ranking import average_precision, best_rank, condition_order, condition_ranks, ndcg

KS = (1, 5)


def per_image_values(predictions: Predictions, order: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics that are means over images, image by image; ``order`` is that of `condition_order`.

    Returns:
        name -> ``[N]`` float64; NaN where the metric does not apply to the image (the distance of a mistake, where
        there is none), and the metric is the mean over the others.
    """
    p, rows, positive, ranks = predictions, np.arange(len(order)), predictions.positive, condition_ranks(order)
    first, primary_rank, top = best_rank(ranks, positive), ranks[rows, p.primary], order[:, 0]
    distance = label_distance(positive, p.dissimilarity)
    values: dict[str, np.ndarray] = {f"r_at_{k}": first <= k for k in KS}
    values |= {f"r_at_{k}_primary": primary_rank <= k for k in KS}
    values |= {
        "mrr": 1.0 / first,
        "map": average_precision(order, positive),
        "ndcg": ndcg(order, p.labels),
        "icd_distance_all": distance[rows, top],
        "icd_distance_mistakes": np.where(positive[rows, top], np.nan, distance[rows, top]),
        "icd_distance_top5": np.take_along_axis(distance, order[:, :5], axis=1).mean(axis=1),
        "hops": hops(order, distance),
    }
    for name, ancestors in (("chapter_accuracy", p.chapters), ("block_accuracy", p.blocks)):
        undefined = np.full(len(rows), np.nan)
        values[name] = same_ancestor(positive, ancestors)[rows, top] if ancestors else undefined
    return {name: value.astype(np.float64) for name, value in values.items()}


@dataclass(frozen=True)
class CaseStatistics:
    """Sums over the images of each of G cases: all that a resample of the cases needs (sufficient statistics).

    Attributes:
        names: the M metrics that are means over images.
        sums: ``[G, M]`` sums of their values; ``counts``: ``[G, M]`` images they apply to.
        macro_hits: ``macro_r_at_K`` -> sparse ``[G, C]`` hits by primary condition.
        support: sparse ``[G, C]`` images by primary condition; ``predicted``: by first prediction; ``correct``: whose
            first prediction is the primary condition.
        one_vs_rest: one per condition; empty if neither AUC nor text-to-image mAP was asked for.
        calibration_gaps: ``[G, bins]`` sum of outcome minus confidence.
    """

    names: tuple[str, ...]
    sums: np.ndarray
    counts: np.ndarray
    macro_hits: dict[str, csr_matrix]
    support: csr_matrix
    predicted: csr_matrix
    correct: csr_matrix
    one_vs_rest: tuple[OneVsRest, ...]
    calibration_gaps: np.ndarray

    @classmethod
    def build(
        cls, predictions: Predictions, cases: np.ndarray | None = None, metrics: Iterable[str] = RESAMPLED_METRICS
    ) -> "CaseStatistics":
        """Judges every image once; each is its own case if ``cases`` is omitted. AUC and t2i mAP cost the most."""
        images, conditions = predictions.logits.shape
        case = np.arange(images) if cases is None else np.unique(cases, return_inverse=True)[1]
        total = int(case.max(initial=-1)) + 1
        values, top, gaps = _judge(predictions, case, total)
        primary, positive = predictions.primary, predictions.positive

        def by_case(column: np.ndarray, weight: np.ndarray) -> csr_matrix:
            return csr_matrix((weight, (case, column)), shape=(total, conditions))

        def stack(columns: Iterable[np.ndarray]) -> np.ndarray:
            return np.stack([np.bincount(case, column, minlength=total) for column in columns], axis=1)

        ones = np.ones(images)
        ranked = range(conditions) if SORT_IMAGES & set(metrics) else ()
        return cls(
            names=tuple(values),
            sums=stack(np.nan_to_num(value) for value in values.values()),
            counts=stack(np.isfinite(value) for value in values.values()),
            macro_hits={f"macro_r_at_{k}": by_case(primary, values[f"r_at_{k}"]) for k in KS},
            support=by_case(primary, ones),
            predicted=by_case(top, ones),
            correct=by_case(top, (top == primary).astype(np.float64)),
            one_vs_rest=tuple(OneVsRest.build(predictions.logits[:, c], positive[:, c], case, total) for c in ranked),
            calibration_gaps=gaps,
        )

    @property
    def cases(self) -> int:
        """G, the number of cases."""
        return len(self.sums)

    def whole(self) -> dict[str, float]:
        """Metric -> value of all the cases."""
        return {name: float(value[0]) for name, value in self.values(np.ones((1, self.cases))).items()}

    def values(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Metric -> ``[B]`` values under ``[B, G]`` weights, how often each case occurs; NaN where undefined."""
        transposed = np.ascontiguousarray(weights.T)

        def resampled(counts: csr_matrix) -> np.ndarray:
            total: np.ndarray = (counts.T @ transposed).T
            return total

        with np.errstate(invalid="ignore", divide="ignore"):
            means = (weights @ self.sums) / (weights @ self.counts)
            result = {name: means[:, column] for column, name in enumerate(self.names)}
            support, predicted, correct = map(resampled, (self.support, self.predicted, self.correct))
            for name, hits in self.macro_hits.items():
                result[name] = mean_of_defined(resampled(hits) / support)
            result["macro_precision"] = mean_of_defined(correct / predicted)
            result["macro_recall"] = mean_of_defined(correct / support)
            result["macro_f1"] = mean_of_defined(np.where(support > 0, 2.0 * correct / (support + predicted), np.nan))
            result["ece"] = np.abs(weights @ self.calibration_gaps).sum(axis=1) / (
                support.sum(axis=1) * self.support.shape[1]
            )
        if self.one_vs_rest:
            if len(weights) > 1:  # of one resample, the whole, the exact value is wanted
                transposed = transposed.astype(self.one_vs_rest[0].positives.dtype)
            both = [condition.auc_and_precision(transposed) for condition in self.one_vs_rest]
            result["macro_auc"] = mean_of_defined(np.stack([auc for auc, _ in both], axis=1))
            result["t2i_map"] = mean_of_defined(np.stack([precision for _, precision in both], axis=1))
        return result


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the entries that are defined (not NaN); NaN where none is."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(defined, values, 0.0).sum(axis=-1) / defined.sum(axis=-1)


def _judge(p: Predictions, case: np.ndarray, cases: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Values of every image, its first prediction, and the calibration gaps of the cases, in blocks of images."""
    found, top, gaps = [], [], np.zeros((cases, BINS))
    for rows in blocks(len(case)) if len(case) else [slice(0, 0)]:
        part = p.take(np.arange(len(p))[rows])
        order = condition_order(part.logits, part.positive)
        found.append(per_image_values(part, order))
        top.append(order[:, 0])
        confidence = expit(part.logits.astype(np.float64))
        np.add.at(gaps, (case[rows, None], confidence_bins(confidence, BINS)), part.positive - confidence)
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}, np.concatenate(top), gaps
