"""What costs nothing: chance, the class prior, and re-ranking by expected D. A model is judged beside them."""

from collections.abc import Iterable

import numpy as np
from scipy.special import digamma, gammaln, softmax

from siglip_med.core.errors import UserError
from siglip_med.metrics.bootstrap import Bootstrap, Interval, by_case
from siglip_med.metrics.names import NEED_SCORES, RESAMPLED_METRICS, SORT_IMAGES
from siglip_med.metrics.predictions import Predictions
from siglip_med.metrics.resampling import KS, mean_of_defined

_DRAWS, _IMAGES = 20, 20_000
"""Random orders that chance is averaged over, and how many images they need judge in all."""


def chance_predictions(predictions: Predictions, seed: int = 0) -> Predictions:
    """The same images with standard normal logits, a random order of the conditions for each."""
    return predictions.with_logits(np.random.default_rng(seed).standard_normal(predictions.logits.shape))


def chance_hits(positive: np.ndarray, k: int) -> np.ndarray:
    """``[N]`` probability that a random order has one of an image's m positive conditions among its first K, exactly.

    1 - binom(C - m, K) / binom(C, K), the hypergeometric law; ``positive`` is ``[N, C]`` bool.
    """
    conditions, m = positive.shape[1], positive.sum(axis=1)
    k = min(k, conditions)
    miss = np.zeros(len(m))
    possible = conditions - m >= k
    rest = conditions - m[possible]
    miss[possible] = np.exp(
        gammaln(rest + 1) - gammaln(rest - k + 1) - gammaln(conditions + 1) + gammaln(conditions - k + 1)
    )
    return np.asarray(1.0 - miss)


def chance_of_images(positives: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
    """What a random order of the images gives for metrics that rank images, exactly, as means over conditions.

    A random order has an AUC of 1/2, and of n images with m positive ones an expected average precision of
    H_n / n + (m - 1) / (n - 1) (1 - H_n / n), with the n-th harmonic number H_n (Bestgen 2015, Exact expected average
    precision of the random baseline).

    Args:
        positives: ``[B, C]`` positive images of each condition in B test sets.
        images: ``[B]`` images of each.

    Returns:
        ``macro_auc`` and ``t2i_map``, each ``[B]``.
    """
    n = np.asarray(images, dtype=np.float64)[:, None]
    one = (digamma(n + 1) + np.euler_gamma) / n
    precision = one + (positives - 1) / np.maximum(n - 1, 1) * (1 - one)
    return {
        "macro_auc": mean_of_defined(np.where((positives > 0) & (positives < n), 0.5, np.nan)),
        "t2i_map": mean_of_defined(np.where(positives > 0, precision, np.nan)),
    }


def chance(predictions: Predictions, seed: int = 0) -> dict[str, float]:
    """What a random order gives, averaged over 20 of them (fewer of many images), the first from ``seed``.

    Returns:
        name -> value for the headline metrics of rankings (no calibration, no loss, no embeddings: chance has none);
        ``r_at_1``, ``r_at_5``, ``macro_auc`` and ``t2i_map`` are exact.

    Examples:
        >>> predictions = Predictions.of([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [[1, 0, 0], [0, 1, 0]])
        >>> round(chance(predictions)["r_at_1"], 3)
        0.333
    """
    ranking = [name for name in RESAMPLED_METRICS if name not in NEED_SCORES]
    found = chance_intervals(predictions, ranking, Bootstrap(repetitions=1, seed=seed))
    return {name: interval.estimate for name, interval in found.items()}


def chance_intervals(predictions: Predictions, metrics: Iterable[str], bootstrap: Bootstrap) -> dict[str, Interval]:
    """`chance` with intervals over cases: which cases a test set holds moves chance too.

    Examples:
        >>> predictions = Predictions.of([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [[1, 0, 0], [0, 1, 0]])
        >>> round(chance_intervals(predictions, ["r_at_1"], Bootstrap())["r_at_1"].estimate, 3)
        0.333
    """
    p, names, exact = predictions, tuple(metrics), {f"r_at_{k}": k for k in KS}
    orders = [
        chance_predictions(p, bootstrap.seed + draw) for draw in range(min(_DRAWS, 1 + _IMAGES // max(len(p), 1)))
    ]
    found = bootstrap.intervals(orders, [name for name in names if name not in SORT_IMAGES])
    for name in set(names) & set(exact):
        found[name] = bootstrap.mean(chance_hits(p.positive, exact[name]), p.cases)
    if SORT_IMAGES & set(names):
        counts = by_case(np.column_stack([p.positive, np.ones(len(p))]), p.cases)
        drawn = [weights @ counts for weights in bootstrap.weights(len(counts), bootstrap.seed)]
        whole, resampled = counts.sum(axis=0)[None], np.concatenate(drawn)
        estimates, rows = (chance_of_images(one[:, :-1], one[:, -1]) for one in (whole, resampled))
        found |= {name: bootstrap.interval(float(estimates[name][0]), rows[name]) for name in SORT_IMAGES}
    return {name: found[name] for name in names}


def label_frequency_predictions(predictions: Predictions) -> Predictions:
    """Rank every image's conditions by how common they are in the training split: R@5 is the five most common ones.

    Returns:
        The same images; each condition's logit is that of its share of the training labels, (count + 1) / (total + C)
        (Laplace 1812, so that an unseen condition is finite). Equal counts go by the order of the conditions.

    Raises:
        UserError: every training count is 0.

    Examples:
        >>> predictions = Predictions.of([[0.0, 0.0]], [[0, 1]], train_counts=[5, 20])
        >>> int(label_frequency_predictions(predictions).logits.argmax())
        1
    """
    counts = predictions.train_counts.astype(np.float64)
    if not counts.any():
        raise UserError("train_counts are all 0: the class-prior baseline needs the counts of the training split")
    share = (counts + 1.0) / (counts.sum() + len(counts))
    logits = np.log(share) - np.log1p(-share)
    # a hair of difference, so that a tie is broken by the order of the conditions and not against the baseline
    logits -= 1e-5 * np.arange(len(logits))
    return predictions.with_logits(np.broadcast_to(logits, predictions.logits.shape).copy())


def crm(predictions: Predictions, temperature: float = 1.0) -> Predictions:
    """Conditional risk minimization: rank conditions by expected distance, the baseline a geometric loss must beat.

    Returns:
        The same images with logit[i, c] = - sum over k of softmax(logits_i)[k] * D[k, c]: minus the expected distance,
        for ranking only (it is no log-odds; its calibration error says nothing).
        Source: Karthik et al., ICLR 2021, arXiv 2104.00795.

    Examples:
        >>> near = [[0.0, 1.0, 1.0], [1.0, 0.0, 0.2], [1.0, 0.2, 0.0]]
        >>> predictions = Predictions.of([[1.0, 0.9, 0.9]], [[0, 1, 0]], dissimilarity=near)
        >>> predictions.logits.argmax().item(), crm(predictions).logits.argmax().item()
        (0, 1)
    """
    probability = softmax(predictions.logits.astype(np.float64) / temperature, axis=1)
    return predictions.with_logits(-probability @ predictions.dissimilarity)
