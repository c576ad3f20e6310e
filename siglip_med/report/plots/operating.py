"""Malignant against the rest: the ROC curve with its operating points, and the decision curve."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from siglip_med.metrics import RISKS, DecisionCurve, OperatingPoint
from siglip_med.report.plots.style import ACCENT, INK, MARKERS, MUTED, PALETTE, new_figure, styled

_LOWEST = -0.25
"""Of the range of net benefit that is shown, as a share of the highest: acting on everybody falls without end."""


@styled
def roc_figure(false_alarms: np.ndarray, found: np.ndarray, area: str, points: Sequence[OperatingPoint]) -> Figure:
    """1 - specificity against sensitivity, both ``[M]``, and operating points with their intervals."""
    figure = new_figure(5.6, 5.4)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="chance")
    axes.plot(false_alarms, found, color=ACCENT, linewidth=1.6, label=f"test split, AUC {area}")
    for place, point in enumerate(points, start=1):
        right, alarm = point.reached["sensitivity"], point.reached["specificity"]
        axes.errorbar(
            [1 - alarm.estimate],
            [right.estimate],
            [[right.estimate - right.low], [right.high - right.estimate]],
            [[alarm.high - alarm.estimate], [alarm.estimate - alarm.low]],
            marker=MARKERS[place],
            color=PALETTE[place],
            capsize=2.5,
            linestyle="none",
            label=f"{point.fixed} {point.share:g} on validation",
        )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="1 − specificity", ylabel="sensitivity")
    axes.grid(visible=True, axis="both")
    axes.legend(loc="lower right")
    return figure


@styled
def decision_figure(curve: DecisionCurve) -> Figure:
    """Net benefit at each of `RISKS`, with the model's interval, beside treating everybody and nobody."""
    figure = new_figure(7.2, 3.9)
    axes = figure.add_subplot()
    model, low, high = (np.array([getattr(one, end) for one in curve.model]) for end in ("estimate", "low", "high"))
    everybody = np.array([one.estimate for one in curve.everybody])
    axes.fill_between(RISKS, low, high, color=ACCENT, alpha=0.18, linewidth=0)
    axes.plot(RISKS, model, color=ACCENT, linewidth=1.8, label="by the model")
    axes.plot(RISKS, everybody, color=PALETTE[1], linewidth=1.4, linestyle=(0, (5, 2)), label="everybody")
    axes.plot(RISKS, 0 * RISKS, color=INK, linewidth=1.2, linestyle=(0, (1, 2)), label="nobody")
    top = max(high.max(), everybody.max(), 0.01)
    axes.set(xlim=(0, RISKS[-1]), ylim=(_LOWEST * top, 1.08 * top))
    axes.set(xlabel="risk of malignancy from which one would act", ylabel="net benefit per image")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(visible=True, axis="both")
    axes.legend(loc="upper right", title="who is acted on")
    return figure
