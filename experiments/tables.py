"""What a study's runs say: means, paired intervals, which checkpoint to keep, and a figure."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from scipy import stats

matplotlib.use("Agg")
import matplotlib.pyplot as plt

METRICS = {
    "r_at_1": "R@1",
    "r_at_5": "R@5",
    "mrr": "MRR",
    "macro_r_at_1": "macro R@1",
    "icd_distance_all": "ICD dist. all ↓",
    "icd_distance_top5": "AHD@5 ↓",
    "icd_distance_mistakes": "ICD dist. mistakes ↓",
    "hops": "HOPS",
    "spearman_text_d": "Spearman(text, D)",
    "far_r_at_1": "far half R@1",
    "far_mrr": "far half MRR",
}
NEARNESS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Shares of the test images, from the farthest from training to the nearest, of which R@1 is given."""
PANELS = ("r_at_1", "r_at_5", "macro_r_at_1", "icd_distance_all", "icd_distance_top5")
CHOICES = {"r_at_1": "best R@1", "r_at_5": "best R@5", "mrr": "best MRR", "map": "best mAP"}


def corrected_interval(
    differences: Sequence[float], train_images: float, test_images: float, coverage: float = 0.95
) -> tuple[float, float, float]:
    """Mean of paired differences over random splits, with an interval that knows that the splits overlap.

    The variance of the mean is ``(1 / J + test / train) s²`` in place of ``s² / J``; the interval is Student's with
    J - 1 degrees of freedom.

    Args:
        differences: J of them, one per split.
        train_images: images that a split trains on.
        test_images: images that it tests.
        coverage: of the interval.

    Returns:
        Mean, low, high; without an interval (NaN) where there are fewer than two.

    Source: Nadeau & Bengio 2003, Machine Learning 52.
    """
    values = np.asarray(differences, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    error = np.sqrt((1 / len(values) + test_images / train_images) * values.var(ddof=1))
    half = float(stats.t.ppf((1 + coverage) / 2, len(values) - 1) * error)
    return mean, mean - half, mean + half


ENDS = {
    "last": "",
    "average": ", weights averaged",
    "crm": " + CRM",
    "refit": ", refit",
    "refit_one_hot": ", refit without tree",
    "refit_shuffled": ", refit with a shuffled tree",
}
"""What a run's end is called behind its variant: the last step, the average of the last steps' weights, …"""


def frame(rows: Iterable[Mapping[str, Any]], ends: Iterable[str] = tuple(ENDS)) -> pd.DataFrame:
    """One line per run and end."""
    lines = []
    for row in rows:
        for end in ends:
            if end in row:
                line = {
                    name: row[name] for name in ("training", "variant", "seed", "steps", "train_images", "test_images")
                }
                kept = [*METRICS, *(f"near_{place}" for place in range(len(NEARNESS) - 1))]
                lines.append(line | {"end": end} | {m: row[end]["test"][m] for m in kept if m in row[end]["test"]})
    return pd.DataFrame(lines)


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Mean ± sample standard deviation over seeds, one line per variant and end."""
    lines, shown = [], {m: title for m, title in METRICS.items() if m in table}
    for (variant, end), group in table.groupby(["variant", "end"], sort=False):
        cells = {title: f"{group[m].mean():.3f} ± {group[m].std(ddof=1):.3f}" for m, title in shown.items()}
        lines.append({"": label(variant, end), "seeds": len(group)} | cells)
    return pd.DataFrame(lines)


def by_nearness(table: pd.DataFrame) -> pd.DataFrame:
    """R@1 by how near the nearest training image is, mean ± standard deviation over seeds, a line per share."""
    lines = []
    for place, (low, high) in enumerate(pairwise(NEARNESS)):
        groups = table[table["end"] == "last"].groupby("variant", sort=False)[f"near_{place}"]
        cells = {str(name): f"{group.mean():.3f} ± {group.std(ddof=1):.3f}" for name, group in groups}
        lines.append({"share of test images, from the farthest": f"{100 * low:.0f} to {100 * high:.0f}%"} | cells)
    return pd.DataFrame(lines)


def differences(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Each variant less the reference on the same seeds, with corrected 95% intervals; clear ones are bold."""
    base = table[(table["variant"] == reference) & (table["end"] == "last")].set_index("seed")
    lines = []
    for (variant, end), group in table.groupby(["variant", "end"], sort=False):
        if variant == reference and end == "last":
            continue
        ours = group.set_index("seed")
        shared = ours.index.intersection(base.index)
        cells = {}
        for metric, title in METRICS.items():
            if metric not in table:
                continue
            change = (ours.loc[shared, metric] - base.loc[shared, metric]).to_numpy()
            sizes = ours["train_images"].mean(), ours["test_images"].mean()
            mean, low, high = corrected_interval(change, *sizes)
            text = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
            cells[title] = f"**{text}**" if low > 0 or high < 0 else text
        lines.append({f"minus {reference}": label(variant, end), "seeds": len(shared)} | cells)
    return pd.DataFrame(lines)


def label(variant: str, end: str) -> str:
    """What a line is called."""
    return variant + ENDS[end]


def checkpoint_choice(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Test metrics of the checkpoint that each validation metric would keep, less those of the last step.

    Mean over runs ± standard error of the mean; ``steps`` is the mean share of the run at which it lies.
    """
    found: dict[str, list[dict[str, float]]] = {}
    watched = ("r_at_1", "r_at_5", "mrr", "map", "icd_distance_top5")
    for row in rows:
        curve = row.get("curve")
        if not curve or (len(curve) < 2 and "average" not in row):
            continue
        last = {m: curve[-1]["test"][m] for m in watched}
        for metric, name in CHOICES.items():
            kept = curve[int(np.argmax([point["val"][metric] for point in curve]))]
            change = {m: kept["test"][m] - last[m] for m in watched}
            found.setdefault(name, []).append(change | {"share": kept["step"] / curve[-1]["step"]})
        if "average" in row:
            change = {m: row["average"]["test"][m] - last[m] for m in watched}
            found.setdefault("weights averaged over the last fifth", []).append(change | {"share": 1.0})
    lines = []
    for name, values in found.items():
        table = pd.DataFrame(values)
        error = table.std(ddof=1) / np.sqrt(len(table))
        cells = {METRICS.get(m, "mAP"): f"{table[m].mean():+.4f} ± {error[m]:.4f}" for m in watched}
        lines.append({"kept": name, "runs": len(table), "at, of the run": f"{table['share'].mean():.2f}"} | cells)
    return pd.DataFrame(lines)


def draw(table: pd.DataFrame, reference: str, path: Path) -> None:
    """One panel per metric: paired difference to the reference, one dot per seed, a bar for the corrected interval."""
    shown = table[table["end"].isin(("last", "refit"))]
    shown = shown.assign(variant=[label(*of) for of in zip(shown["variant"], shown["end"], strict=True)])
    base = shown[shown["variant"] == reference].set_index("seed")
    order = [name for name in dict.fromkeys(shown["variant"]) if name != reference]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 1.6 + 0.34 * len(order)), sharey=True, squeeze=False)
    for axis, metric in zip(axes[0], PANELS, strict=True):
        for place, name in enumerate(reversed(order)):
            ours = shown[shown["variant"] == name].set_index("seed")
            shared = ours.index.intersection(base.index)
            change = (ours.loc[shared, metric] - base.loc[shared, metric]).to_numpy()
            mean, low, high = corrected_interval(change, ours["train_images"].mean(), ours["test_images"].mean())
            axis.plot(change, [place] * len(change), "o", color="#0072B2", alpha=0.35, markersize=4)
            axis.plot([low, high], [place, place], color="black", linewidth=2)
            axis.plot([mean], [place], "|", color="black", markersize=12)
        axis.axvline(0, color="#D55E00", linewidth=1)
        axis.set_yticks(range(len(order)), list(reversed(order)))
        axis.set_title(METRICS[metric], fontsize=10)
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(f"test split, minus {reference} on the same seeds: dots: seeds, bars: 95% intervals", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plane(table: pd.DataFrame, reference: str, variants: Iterable[str]) -> pd.DataFrame:
    """Mean AHD@5 and R@1 of each variant at the last step, and half an interval of its difference to the reference."""
    shown = table[table["end"] == "last"].set_index("seed")
    lines = []
    for variant in variants:
        ours, line = shown[shown["variant"] == variant], {}
        for metric in ("icd_distance_top5", "r_at_1"):
            change = ours[metric] - shown[shown["variant"] == reference][metric]
            center, low, _ = corrected_interval(list(change), ours["train_images"].mean(), ours["test_images"].mean())
            line |= {metric: ours[metric].mean(), f"{metric}_half": center - low}
        lines.append(line)
    return pd.DataFrame(lines, index=pd.Index(variants))


def draw_plane(table: pd.DataFrame, reference: str, path: Path, names: Mapping[str, str]) -> None:
    """R@1 against AHD@5, a dot a method, with the bars of `plane`; ``names`` are variants and what they are called."""
    figure, axis = plt.subplots(figsize=(8.6, 4.2))
    for place, (variant, dot) in enumerate(plane(table, reference, names).iterrows()):
        axis.errorbar(
            dot["icd_distance_top5"], dot["r_at_1"], xerr=dot["icd_distance_top5_half"], yerr=dot["r_at_1_half"],
            fmt="o", color=plt.get_cmap("tab10")(place), capsize=3, markersize=8, label=names[str(variant)],
        )  # fmt: skip
    axis.invert_xaxis()
    axis.set_xlabel("mean ICD-10 distance of the list of five (AHD@5), nearer to the right")
    axis.set_ylabel("R@1")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path, chosen: Sequence[str]) -> None:
    """R@1 and the mean ICD distance of the five first answers on test against steps, mean over seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for name in chosen:
        curves = [row["curve"] for row in rows if row["variant"] == name and row.get("curve")]
        if not curves:
            continue
        length = min(map(len, curves))
        steps = [point["step"] for point in curves[0][:length]]
        for axis, metric in zip(axes, ("r_at_1", "icd_distance_top5"), strict=True):
            mean = np.mean([[point["test"][metric] for point in curve[:length]] for curve in curves], axis=0)
            axis.plot(steps, mean, label=name)
            axis.set(xlabel="step", title=METRICS[metric])
            axis.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def tuning_table(trials: Sequence[Mapping[str, Any]], metric: str, end: str = "last") -> pd.DataFrame:
    """The settings that validation chose for each loss by a metric of an end, and what its defaults had."""
    lines = []
    for variant in dict.fromkeys(row["variant"] for row in trials):
        values: dict[int, list[float]] = {}
        knobs: dict[int, list[str]] = {}
        for row in trials:
            if row["variant"] == variant:
                values.setdefault(row["trial"], []).append(row[end]["val"][metric])
                knobs[row["trial"]] = row["knobs"]
        mean = {trial: float(np.mean(found)) for trial, found in values.items()}
        best = max(mean, key=lambda trial: mean[trial])
        pairs = (word.partition("=") for word in knobs[best])
        short = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, _, value in pairs) or "the defaults"
        line = {"": variant, "trials": len(mean), f"val {METRICS[metric]} of the defaults": f"{mean[0]:.4f}"}
        lines.append(line | {"of the chosen": f"{mean[best]:.4f}", "chosen": short})
    return pd.DataFrame(lines)


def write_results(
    folder: Path,
    reference: str,
    rows: Sequence[Mapping[str, Any]],
    trials: Sequence[Mapping[str, Any]],
    chosen_by: tuple[str, str] | None,
) -> None:
    """Writes results.csv, table.md, figure.png and curves.png.

    Args:
        folder: of the study.
        reference: the variant that others are held against.
        rows: of the final runs.
        trials: of the tuning.
        chosen_by: metric and end that chose the settings.
    """
    table = frame(rows)
    table.round(5).to_csv(folder / "results.csv", index=False)
    parts = []
    for data, group in table.groupby("training", sort=False):
        parts += [f"## {data}\n\nTest split at the last step, mean ± sd over seeds.\n", to_markdown(means(group))]
        parts += ["Paired by seed, 95% intervals corrected for overlapping splits.\n"]
        parts += [to_markdown(differences(group, reference))]
        if "near_0" in group:
            parts += ["R@1 by the cosine to the nearest training image.\n", to_markdown(by_nearness(group))]
    if trials and chosen_by:
        parts += ["## Chosen on validation\n", to_markdown(tuning_table(trials, *chosen_by))]
    choice = checkpoint_choice(rows)
    if not choice.empty:
        parts += ["## Which checkpoint\n\nTest, minus the last step: mean ± standard error over all runs.\n"]
        parts += [to_markdown(choice)]
    (folder / "table.md").write_text("\n".join(parts))
    first = str(table["training"].iloc[0])
    draw(table[table["training"] == first], reference, folder / "figure.png")
    draw_curves(
        [row for row in rows if row["training"] == first],
        folder / "curves.png",
        list(dict.fromkeys(row["variant"] for row in rows))[:7],
    )
    print((folder / "table.md").read_text())


def to_markdown(table: pd.DataFrame) -> str:
    """The table in GitHub's Markdown."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"
