"""How each condition fares, and what it is taken for."""

import numpy as np
import pandas as pd

from siglip_med.metrics import (
    Predictions,
    YesNo,
    best_rank,
    choose_thresholds,
    classification_summary,
    classification_table,
    condition_order,
    condition_ranks,
    confusion_matrix,
    metric_label,
)
from siglip_med.report.evidence import ZERO_SHOT, Evidence
from siglip_med.report.page import Figure, Section, Table, number
from siglip_med.report.plots.comparisons import conditions_figure
from siglip_med.report.plots.matrices import NAMED, confusion_figure
from siglip_med.report.plots.order import chapters_of, icd_order
from siglip_med.report.plots.style import to_png

_THRESHOLDED = {"precision": "precision", "recall": "recall", "f1": "F1", "auc": "AUC", "average_precision": "AP"}
_CONFUSIONS = 15


def recall_by_condition(predictions: Predictions, k: int) -> np.ndarray:
    """``[C]`` share of each primary condition's images with a positive one among the first k; NaN without images."""
    ranks = condition_ranks(condition_order(predictions.logits, predictions.positive))
    hits = pd.Series(best_rank(ranks, predictions.positive) <= k)
    return hits.groupby(predictions.primary).mean().reindex(range(len(predictions.conditions))).to_numpy()


def conditions_section(evidence: Evidence) -> Section:
    """The table of conditions."""
    test = evidence.test
    thresholds = choose_thresholds(evidence.val)
    table = classification_table(test, thresholds)
    table.insert(3, "train_images", test.train_counts)
    table.insert(4, "primary_images", np.bincount(test.primary, minlength=len(test.conditions)))
    table["r_at_1"], table["r_at_5"] = recall_by_condition(test, 1), recall_by_condition(test, 5)
    table["threshold"] = thresholds
    least, sizes = evidence.settings.smallest_group, YesNo.of_conditions(test).sizes
    primary = pd.Series(test.cases).groupby(test.primary).nunique().reindex(range(len(table)), fill_value=0).to_numpy()
    table.loc[primary < least, ["r_at_1", "r_at_5"]] = np.nan
    table.loc[sizes[1] < least, ["precision", "recall", "f1"]] = np.nan
    table.loc[sizes.min(axis=0) < least, ["auc", "average_precision"]] = np.nan
    drawn = table[["condition"]].assign(train=test.train_counts, images=table["primary_images"], value=table["r_at_5"])
    if evidence.zero_shot is not None:
        drawn["baseline"] = np.where(drawn["value"].isna(), np.nan, recall_by_condition(evidence.zero_shot, 5))
    recall = {name: metric_label(name, len(test.conditions), short=True) for name in ("r_at_1", "r_at_5")}
    baseline = ZERO_SHOT if evidence.zero_shot is not None else None
    figure = conditions_figure(drawn, f"{recall['r_at_5']} by primary condition", baseline)
    summary = classification_summary(evidence.val, test)
    means = ", ".join(
        f"{label} {number(summary[f'thresholded_macro_{name}'])} (over {summary[f'defined_{name}']:.0f} conditions)"
        for name, label in _THRESHOLDED.items()
    )
    order = np.argsort(-test.train_counts, kind="stable")
    rows = tuple(
        (
            str(row["condition"]),
            str(row["code"]),
            f"{int(row['train_images']):,}",
            str(row["primary_images"]),
            str(row["positives"]),
            *(number(row[name], 2) for name in (*recall, *_THRESHOLDED)),
        )
        for _, row in table.iloc[order].iterrows()
    )
    headings = ("condition", "code", "training images", "as primary", "as any label")
    columns = (*headings, *recall.values(), *_THRESHOLDED.values())
    return Section(
        key="conditions",
        title="Every condition",
        paragraphs=(
            "R@1 and R@5 are over the images whose primary label is the condition. Precision, recall and F1 "
            "call an image positive above a threshold that was chosen on the validation split (one a "
            "condition; conditions with fewer than five validation images share a pooled one). AUC and AP are "
            "one condition against the rest, over any label. Conditions with fewer than "
            f"{least:,} test cases (report.smallest_group) have dashes for their own numbers, and count in the means.",
            f"Means over conditions at those thresholds: {means}.",
        ),
        tables=(Table("Most common in training first", columns, rows, text_columns=2, tall=True),),
        figures=(
            Figure(
                "conditions",
                to_png(figure),
                f"{recall['r_at_5']} of every condition.",
                "Most common in training first; behind each name its training images and its images judged. "
                f"Without points: fewer than {least:,} test cases.",
                620,
            ),
        ),
        data={"table": table.to_dict("records"), "means_at_thresholds": summary},
    )


def confusion_section(evidence: Evidence) -> Section:
    """The confusion matrix in ICD order, and the most common confusions in words."""
    test, order = evidence.test, icd_order(evidence.test)
    matrix = confusion_matrix(test)
    chapters = chapters_of(test)
    figure = confusion_figure(
        matrix[np.ix_(order, order)], [test.conditions[c] for c in order], [chapters[c] for c in order]
    )
    wrong = matrix * ~np.eye(len(matrix), dtype=bool)
    pairs = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    total = matrix.sum(axis=1)
    rows = tuple(
        (
            test.conditions[true],
            test.conditions[answer],
            str(wrong[true, answer]),
            f"{wrong[true, answer] / total[true]:.0%}",
            number(float(test.dissimilarity[true, answer]), 2),
        )
        for true, answer in zip(*np.unravel_index(pairs, wrong.shape), strict=True)
        if wrong[true, answer]
    )
    given = evidence.answers
    never = f"; never answered, though listed: {', '.join(given.never)}" if given.never else ""
    return Section(
        key="confusion",
        title="What is taken for what",
        paragraphs=(
            "Conditions stand in the order of their ICD-10-CM codes, so relatives are neighbors and each "
            "frame is a chapter: a mistake inside a frame stays in the chapter. Each row adds up to 1; gray "
            "rows have no test image.",
            f"The most frequent first answer is {given.most_frequent}, for {given.share:.1%} of the images "
            f"({given.listed:.1%} list it). {given.present - len(given.never)} of the {given.present} conditions that "
            f"the test lists are answered at least once{never}.",
        ),
        tables=(
            Table(
                "Most common confusions",
                ("primary condition", "first prediction", "images", "of the condition", "D"),
                rows,
                text_columns=2,
            ),
        ),
        figures=(
            Figure(
                "confusion",
                to_png(figure),
                "Confusion matrix in the order of the ICD-10-CM codes.",
                "Darker is more; the color scale is stretched at the low end so that rare confusions show."
                + (f" {len(matrix):,} conditions are too many to be named here." if len(matrix) > NAMED else ""),
                900 if len(matrix) > 30 else 520,
            ),
        ),
        data={
            "conditions": list(test.conditions),
            "matrix": matrix,
            "answers": dict(zip(test.conditions, given.counts, strict=True)),
            "never_answered": given.never,
        },
    )
