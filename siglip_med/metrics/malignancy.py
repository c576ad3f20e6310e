"""Malignant against the rest by ICD-10-CM code: one score of an image, and the net benefit of acting on it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit, logsumexp

from siglip_med.metrics.bootstrap import Bootstrap, Interval, by_case
from siglip_med.metrics.calibration import Calibration, fit_sigmoid
from siglip_med.metrics.operating_points import YesNo
from siglip_med.metrics.predictions import Predictions

MALIGNANT = ("C43", "C44", "C4A", "D03", "D04")
"""Melanoma, other malignant neoplasms of skin, Merkel cell carcinoma, melanoma and carcinoma in situ."""
RISKS = np.arange(1, 51) / 100
"""Threshold probabilities of a decision curve: who would act at a risk above one in two?"""


def malignant(codes: Sequence[str], categories: Sequence[str] = MALIGNANT) -> np.ndarray:
    """``[C]`` bool: whose code lies in one of the three-character categories."""
    return np.array([code[:3] in categories for code in codes], dtype=bool)


def malignant_question(predictions: Predictions, calibration: Calibration, columns: np.ndarray) -> YesNo:
    """One question: does an image list a malignant condition? K is 1.

    The score is the logarithm of the sum of the calibrated probabilities of the ``[C]`` bool ``columns``.
    """
    logits = calibration.apply(predictions).logits[:, columns].astype(np.float64)
    scores = logsumexp(log_expit(logits), axis=1)[:, None]
    return YesNo(scores, np.any(predictions.positive[:, columns], axis=1, keepdims=True), predictions.cases)


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit per image at each of `RISKS`: of acting on the model, on everybody, and the first less the second.

    Of acting on nobody it is 0.
    """

    model: list[Interval]
    everybody: list[Interval]
    gain: list[Interval]


def decision_curve(validation: YesNo, test: YesNo, bootstrap: Bootstrap) -> DecisionCurve:
    """Is acting on the score worth more than treating everybody, or nobody?

    Net benefit = TP / n - FP / n * pt / (1 - pt), where an image is treated if its probability is at least pt (Vickers
    & Elkin, Medical Decision Making 2006). The probability is a logistic function of the score, fitted on validation
    (Platt 1999). Both splits need both kinds of images.
    """
    fit = fit_sigmoid(validation.scores[:, 0], validation.positive[:, 0])
    probability, positive = expit(test.scores / fit.temperature + fit.bias), test.positive
    worth = np.where(positive, 1.0, -RISKS / (1.0 - RISKS))
    chosen = np.where(probability >= RISKS, worth, 0.0)
    values = np.concatenate([chosen, worth, chosen - worth], axis=1)
    found = bootstrap.ratios(by_case(values, test.cases), by_case(np.ones_like(values), test.cases))
    return DecisionCurve(*(found[start : start + len(RISKS)] for start in range(0, len(found), len(RISKS))))
