"""Numbers beside each other: the run and its baselines, conditions, groups of patients, two runs."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from siglip_med.metrics import Interval, PairedResult
from siglip_med.report.plots.style import ACCENT, INK, MARKERS, MUTED, PALETTE, new_figure, shorten, styled


@styled
def baselines_figure(values: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Interval]) -> Figure:
    """One line per metric: the run (the first series) with its interval, and every baseline on the same line."""
    run, *baselines = values
    labels = list(values[run])
    figure = new_figure(8, 0.8 + 0.34 * len(labels))
    axes = figure.add_subplot()
    rows = np.arange(len(labels))
    for position, name in enumerate(baselines, start=1):
        series = [values[name].get(label, float("nan")) for label in labels]
        axes.plot(series, rows, MARKERS[position], color=PALETTE[position], ms=6, label=name)
    for row, label in zip(rows, labels, strict=True):
        if label in intervals:
            axes.plot([intervals[label].low, intervals[label].high], [row, row], color=ACCENT, linewidth=2.2)
    axes.plot([values[run][label] for label in labels], rows, "o", color=ACCENT, ms=7.5, label=run)
    _rows(axes, labels)
    axes.set_xlim(-0.02, 1.02)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[-1:] + handles[:-1], names[-1:] + names[:-1], loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def conditions_figure(table: pd.DataFrame, title: str, baseline: str | None) -> Figure:
    """One line per condition, the most common in training first: baseline and run; NaN where it has too few cases."""
    table = table.sort_values("train", ascending=False, kind="stable").reset_index(drop=True)
    figure = new_figure(7.6, 1.2 + 0.185 * len(table))
    axes = figure.add_subplot()
    rows = np.arange(len(table))
    if baseline is not None:
        axes.hlines(rows, table["baseline"], table["value"], color="#c5ccd4", linewidth=1.4, zorder=1)
        axes.plot(table["baseline"], rows, "s", color=PALETTE[1], ms=4.5, label=baseline)
    axes.plot(table["value"], rows, "o", color=ACCENT, ms=5.5, label="this run")
    for row in rows[table["value"].isna()]:
        axes.text(0.01, row, "too few cases", va="center", fontsize=6.5, color=MUTED)
    labels = [
        f"{shorten(name, 36)}  {int(train)} / {int(images)}"
        for name, train, images in zip(table["condition"], table["train"], table["images"], strict=True)
    ]
    _rows(axes, labels)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlim(-0.02, 1.02)
    axes.set_title(title)
    axes.xaxis.set_ticks_position("both")
    axes.tick_params(axis="x", labeltop=True, length=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def subgroup_figure(table: pd.DataFrame, metrics: Mapping[str, str], overall: Mapping[str, float]) -> Figure:
    """Bars with intervals of `subgroup_metrics`, a panel per metric, a block per attribute; small ones hatched."""
    attributes = list(dict.fromkeys(table["attribute"]))
    place, rows = 0.0, np.empty(len(table))
    labels: list[str] = []
    for attribute in attributes:
        for position in np.flatnonzero(table["attribute"] == attribute).tolist():
            rows[position], place = place, place + 1
            group = table.iloc[position]
            labels.append(f"{shorten(str(group['group']), 26)} (n={group['images']})")
        place += 0.9
    figure = new_figure(1.6 + 3.4 * len(metrics), 1.0 + 0.21 * place)
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, (metric, heading) in zip(panels, metrics.items(), strict=True):
        values = table[metric].to_numpy(dtype=float)
        low, high = (table[f"{metric}_{end}"].to_numpy(dtype=float) for end in ("low", "high"))
        for position, value in enumerate(values):
            small = bool(table["small"].iloc[position])
            color = PALETTE[attributes.index(table["attribute"].iloc[position]) % len(PALETTE)]
            axes.barh(
                rows[position], value, height=0.78, color="white" if small else color, edgecolor=color,
                hatch="////" if small else None, linewidth=0.8, alpha=0.9,
            )  # fmt: skip
        axes.hlines(rows, low, high, color=INK, linewidth=1.1)
        axes.axvline(overall[metric], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_title(heading)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, max(1.0, float(np.nanmax(np.append(high, 0)))))
        axes.grid(visible=True, axis="x")
    panels[0].set_yticks(rows, labels)
    panels[0].set_ylim(place - 0.9, -1.0)
    for attribute in attributes:
        first = rows[table["attribute"] == attribute].min()
        panels[0].annotate(
            attribute.replace("_", " "), (0, first - 0.62), xycoords=("axes fraction", "data"), xytext=(-4, 0),
            textcoords="offset points", ha="right", va="bottom", fontsize=8, fontweight="bold",
        )  # fmt: skip
    return figure


@styled
def differences_figure(results: Mapping[str, PairedResult], better: Mapping[str, int], names: Sequence[str]) -> Figure:
    """Paired differences with intervals; right is better for the first run; ``better`` is -1 where less is, else 1."""
    figure = new_figure(8, 1.3 + 0.32 * len(results))
    axes = figure.add_subplot()
    axes.axvline(0, color=MUTED, linewidth=1)
    for row, (label, result) in enumerate(results.items()):
        sign = better[label]
        ends = sorted((sign * result.low, sign * result.high))
        clear = ends[0] > 0 or ends[1] < 0
        color = (PALETTE[0] if ends[0] > 0 else PALETTE[4]) if clear else MUTED
        axes.axhspan(row - 0.32, row + 0.32, color="#f4f6f8", zorder=0)
        limit = result.minimum_detectable_difference
        axes.plot([-limit, limit], [row, row], "|", color=PALETTE[3], ms=9, markeredgewidth=1.6)
        axes.plot(ends, [row, row], color=color, linewidth=2.2)
        axes.plot(sign * result.difference, row, "o" if clear else "s", color=color, ms=6.5)
    axes.plot([], [], "|", color=PALETTE[3], ms=9, markeredgewidth=1.6, label="smallest difference that shows")
    _rows(axes, [label if better[label] > 0 else f"{label}, lower is better" for label in results])
    axes.set_xlabel(f"←  {shorten(names[1], 40)} better      difference      {shorten(names[0], 40)} better  →")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)
    return figure


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=True, axis="y", linewidth=0.4)
