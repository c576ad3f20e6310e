"""Are the confidences true? Multi-label calibration error, reliability, and calibration by a temperature and a bias."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit

from siglip_med.core.errors import UserError
from siglip_med.metrics.predictions import Predictions

BINS = 15
_LOG_TEMPERATURE_LIMIT = 6.0


def confidence_bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Equal-width bin of each confidence in [0, 1]: bin i is [i / bins, (i + 1) / bins), the last one closed."""
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)


def calibration_error(confidence: np.ndarray, outcome: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: mean over pairs of |frequency - mean confidence| of the bin a pair lies in.

    Returns:
        Value in [0, 1]; NaN for no pairs. Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017.
    """
    if confidence.size == 0:
        return float("nan")
    confidence = confidence.astype(np.float64)
    gaps = np.bincount(confidence_bins(confidence, bins).ravel(), weights=(outcome - confidence).ravel())
    return float(np.abs(gaps).sum() / confidence.size)


def reliability_table(predictions: Predictions, bins: int = BINS) -> pd.DataFrame:
    """The reliability diagram as a table, over all N x C (image, condition) pairs.

    Returns:
        One row per bin: ``lower``, ``upper``, ``count``, ``confidence`` (mean predicted), ``frequency`` (of positives);
        the last two are NaN in an empty bin.
    """
    confidence, outcome = expit(predictions.logits.astype(np.float64)).ravel(), predictions.positive.ravel()
    index = confidence_bins(confidence, bins)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, weights=confidence, minlength=bins) / count
        frequency = np.bincount(index, weights=outcome, minlength=bins) / count
    edges = np.arange(bins + 1) / bins
    return pd.DataFrame(
        {"lower": edges[:-1], "upper": edges[1:], "count": count, "confidence": mean, "frequency": frequency}
    )


def calibration_metrics(predictions: Predictions) -> dict[str, float]:
    """Calibration in numbers.

    Returns:
        ``ece``: over all pairs (most are easy negatives, which flatters); ``ece_classwise``: mean of the error of each
        condition (Kull et al., NeurIPS 2019); ``ece_top1``: confidence of the first prediction against "is positive"
        (the number a reader of the first prediction feels); ``brier``: mean squared error over all pairs (Brier 1950);
        ``log_loss``: mean binary cross-entropy over all pairs, in nats.

    Examples:
        >>> predictions = Predictions.of([[0.0, 0.0]], [[1, 0]])
        >>> {name: round(value, 3) for name, value in calibration_metrics(predictions).items()}
        {'ece': 0.0, 'ece_classwise': 0.5, 'ece_top1': 0.5, 'brier': 0.25, 'log_loss': 0.693}
    """
    logits, positive = predictions.logits.astype(np.float64), predictions.positive
    confidence, rows = expit(logits), np.arange(len(logits))
    top = logits.argmax(axis=1)
    classwise = [calibration_error(confidence[:, c], positive[:, c]) for c in range(logits.shape[1])]
    return {
        "ece": calibration_error(confidence, positive),
        "ece_classwise": float(np.mean(classwise)),
        "ece_top1": calibration_error(confidence[rows, top], positive[rows, top]),
        "brier": float(np.mean((confidence - positive) ** 2)),
        "log_loss": float(np.mean(np.logaddexp(0.0, logits) - positive * logits)),
    }


@dataclass(frozen=True)
class Calibration:
    """A refit of the sigmoid: calibrated logit = logit / temperature + bias. Ranks never change.

    Source: Platt 1999 (slope and bias); Guo et al., ICML 2017 (temperature).
    """

    temperature: float
    bias: float

    def apply(self, predictions: Predictions) -> Predictions:
        """The same predictions with calibrated logits."""
        return predictions.with_logits(predictions.logits / self.temperature + self.bias)


def fit_calibration(predictions: Predictions) -> Calibration:
    """Temperature and bias that minimize the binary cross-entropy over all N x C pairs.

    Args:
        predictions: the validation split, never the one that will be judged.

    Returns:
        The fit; the temperature is positive, within e^-6 to e^6 (perfectly separated scores have no finite optimum).

    Raises:
        UserError: no image, or every pair has the same outcome.

    Examples:
        >>> predictions = Predictions.of([[4.0, -4.0]] * 2, [[1, 0], [0, 1]])
        >>> round(fit_calibration(predictions).apply(predictions).logits.max().item(), 3)
        0.01
    """
    logits, positive = predictions.logits.astype(np.float64).ravel(), predictions.positive.ravel()
    if positive.all() or not positive.any():
        raise UserError(
            f"split {predictions.split!r}: calibration needs positive and negative (image, condition) pairs, this "
            "split has only one kind; give it more images or conditions"
        )
    return fit_sigmoid(logits, positive)


def fit_sigmoid(logits: np.ndarray, positive: np.ndarray) -> Calibration:
    """Temperature and bias for ``[M]`` logits of which both kinds of outcome are there; see `fit_calibration`."""

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = logits * np.exp(-parameters[0])
        shifted = scaled + parameters[1]
        residual = expit(shifted) - positive
        gradient = np.array([-(residual * scaled).mean(), residual.mean()])
        return float((np.logaddexp(0.0, shifted) - positive * shifted).mean()), gradient

    limit = _LOG_TEMPERATURE_LIMIT
    fit = minimize(
        loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-limit, limit), (None, None)], options={"gtol": 1e-9}
    )
    return Calibration(temperature=float(np.exp(fit.x[0])), bias=float(fit.x[1]))
