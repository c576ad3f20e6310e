"""The same numbers for each kind of patient and of condition."""

from collections.abc import Hashable, Mapping
from typing import Any

from siglip_med.metrics import RESAMPLED_METRICS, UNKNOWN, subgroup_metrics, table_label, worst_gaps
from siglip_med.report.evidence import RUN, Evidence
from siglip_med.report.page import NOT_DEFINED, Figure, Section, Table, bounds, number
from siglip_med.report.plots.comparisons import subgroup_figure
from siglip_med.report.plots.style import to_png

_DRAWN = ("r_at_1", "r_at_5", "icd_distance_all")
_IN_TABLE = (
    "r_at_1", "r_at_5", "mrr", "macro_r_at_5", "macro_auc", "icd_distance_all", "icd_distance_mistakes", "ece",
)  # fmt: skip
_GAPS = ("r_at_1", "r_at_5", "mrr", "macro_auc", "icd_distance_all", "ece")


def subgroups_section(evidence: Evidence) -> Section:
    """Every headline by skin tone, sex, age group, site and frequency of the condition, and the worst gaps."""
    settings, conditions = evidence.settings, len(evidence.test.conditions)
    table = subgroup_metrics(evidence.test, bootstrap=settings.resampling)
    recorded = table[table["group"] != UNKNOWN]["attribute"].unique()
    absent = [name.replace("_", " ") for name in table["attribute"].unique() if name not in recorded]
    table = table[table["attribute"].isin(recorded)].reset_index(drop=True)
    few = table["cases"] < settings.smallest_group
    ends = [f"{name}{end}" for name in RESAMPLED_METRICS for end in ("", "_low", "_high")]
    table.loc[few, ends] = float("nan")
    left = [f"{row['attribute']} {row['group']}".replace("_", " ") for row in table[few].to_dict("records")]
    gaps = worst_gaps(table, RESAMPLED_METRICS)
    figure = subgroup_figure(
        table, {name: table_label(name, conditions, short=True) for name in _DRAWN}, evidence.values[RUN]
    )
    rows = tuple(
        (
            f"{str(row['attribute']).replace('_', ' ')}: {row['group']}",
            f"{row['images']:,}" + (" (few)" if row["small"] else ""),
            f"{row['cases']:,}",
            *(_cell(row, metric) for metric in _IN_TABLE),
        )
        for row in table.to_dict("records")
    )
    shown = gaps[gaps["metric"].isin(_GAPS)]
    gap_rows = tuple(
        (
            str(row["attribute"]).replace("_", " "),
            table_label(str(row["metric"]), conditions),
            str(row["worst"]) or NOT_DEFINED,
            str(row["best"]) or NOT_DEFINED,
            number(float(row["gap"])),
            number(float(row["gap_with_small"])),
        )
        for row in shown.to_dict("records")
    )
    missing = f" Not recorded in this data: {', '.join(absent)}." if absent else ""
    return Section(
        key="subgroups",
        title="Who is it worse for?",
        paragraphs=(
            "Skin tone is the Fitzpatrick type. Frequency is the third of the conditions that the image's "
            "primary label belongs to by training images (head, middle, tail). Groups of fewer than 30 images "
            f"are hatched, marked as few and left out of the gap; the last column puts them back.{missing}"
            + (f" Under {settings.smallest_group} cases, so without numbers: {', '.join(left)}." if left else ""),
            "Nearness is the cosine of the base's features to the training image that looks most alike: the same "
            "lesion in training and test is a leak, so the farthest quarter says more of new patients than the mean.",
            "A gap is a difference between groups as they are in this test split: groups also differ in which "
            "conditions they have.",
        ),
        tables=(
            Table(
                "Largest gap between two groups",
                ("", "metric", "worst group", "best group", "gap", "gap with few"),
                gap_rows,
                text_columns=4,
            ),
            Table(
                "Every group",
                ("group", "images", "cases", *(table_label(name, conditions) for name in _IN_TABLE)),
                rows,
                tall=True,
            ),
        ),
        figures=(
            Figure(
                "subgroups",
                to_png(figure),
                "R@1, R@5 and ICD distance of every group, with intervals.",
                f"Whisker: {settings.coverage:.0%} interval over cases. Dashed: all images. Hatched: under 30 images.",
                820,
            ),
        ),
        data={"groups": table.to_dict("records"), "gaps": gaps.to_dict("records")},
    )


def _cell(row: Mapping[Hashable, Any], metric: str) -> str:
    value, low, high = (float(row[f"{metric}{end}"]) for end in ("", "_low", "_high"))
    return f"{number(value)} {bounds(low, high, '.2f')}".rstrip()
