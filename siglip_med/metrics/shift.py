"""Other frequencies of the same conditions: calibrated probabilities, the frequencies of unlabelled images by EM."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from siglip_med.metrics.blocks import blocks

_LOG_TEMPERATURE_LIMIT = 6.0
_STEPS = 1000


@dataclass(frozen=True)
class BiasCorrected:
    """Softmax probabilities over C conditions: softmax(logit / temperature + bias).

    Source: bias-corrected temperature scaling, Alexandari, Kundaje & Shrikumar, ICML 2020.
    """

    temperature: float
    bias: np.ndarray

    def log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """``[N, C]`` float32 logarithms of ``[N, C]`` logits' probabilities."""
        found, bias = np.empty(logits.shape, dtype=np.float32), self.bias.astype(np.float32)
        for rows in blocks(len(logits)):
            found[rows] = log_softmax(logits[rows] / np.float32(self.temperature) + bias, axis=1)
        return found


def fit_bias_corrected(logits: np.ndarray, right: np.ndarray, start: BiasCorrected | None = None) -> BiasCorrected:
    """Temperature and biases that maximize the probability of what is right.

    The biases, and the logarithm of the temperature, have a Gaussian prior of variance one around ``start``: a
    condition without an image keeps its bias, and a few images move it a little. ``right`` is ``[N, C]`` bool with at
    least one an image (the probabilities of several are summed); ``start`` is temperature 1 and biases 0 where None.
    """
    start = start or BiasCorrected(1.0, np.zeros(logits.shape[1]))
    origin = np.concatenate([[np.log(start.temperature)], start.bias])
    logits = logits.astype(np.float64)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = logits * np.exp(-parameters[0])
        shifted = scaled + parameters[1:]
        among = np.where(right, shifted, -np.inf)
        whole, part = logsumexp(shifted, axis=1, keepdims=True), logsumexp(among, axis=1, keepdims=True)
        residual = np.exp(shifted - whole) - np.exp(among - part)
        away = parameters - origin
        gradient = np.concatenate([[-(residual * scaled).sum()], residual.sum(axis=0)]) + away
        return float((whole - part).sum() + 0.5 * away @ away), gradient

    limit = _LOG_TEMPERATURE_LIMIT
    bounds = [(-limit, limit), *[(None, None)] * logits.shape[1]]
    fit = minimize(loss, origin, jac=True, method="L-BFGS-B", bounds=bounds)
    return BiasCorrected(float(np.exp(fit.x[0])), fit.x[1:])


def em_prior(probabilities: np.ndarray, source: np.ndarray, tolerance: float = 1e-7) -> np.ndarray:
    """Frequencies of the conditions in unlabelled images, by expectation maximization.

    Right where the images of one condition look the same in both sets and the probabilities are calibrated; nothing
    says so from within. Source: Saerens, Latinne & Decaestecker, Neural Computation 2002.

    ``[C]`` float64 from ``[N, C]`` probabilities, calibrated on the source, and their ``[C]`` means there. It stops
    where no frequency changes by ``tolerance`` or more, after 1,000 steps at the latest.
    """
    prior = source = np.maximum(source.astype(np.float64), 1e-12)
    for _ in range(_STEPS):
        ratio = (prior / source).astype(probabilities.dtype)
        evidence = np.maximum(probabilities @ ratio, np.finfo(probabilities.dtype).tiny)
        found = ratio * (probabilities.T @ (1.0 / evidence)) / len(probabilities)
        found = found.astype(np.float64) / found.sum()
        done, prior = np.abs(found - prior).max() < tolerance, found
        if done:
            break
    return prior
