"""What one answer per case is worth beside an answer per photograph."""

import numpy as np

from siglip_med.core.case_pooling import POOLINGS
from siglip_med.metrics import (
    CaseStatistics,
    against_images,
    conformal_report,
    fit_conformal,
    per_case,
    table_label,
)
from siglip_med.report.evidence import Evidence
from siglip_med.report.page import Section, Table, number, percent, with_range

_SHOWN = ("r_at_1", "r_at_5", "mrr", "macro_r_at_1", "icd_distance_all")


def cases_section(evidence: Evidence) -> Section:
    """One answer per case against an answer per image, paired; each pooling on validation and test; prediction sets."""
    fit, test, settings = evidence.calibration, evidence.test, evidence.settings
    conditions, gain = len(test.conditions), against_images(test, settings.resampling)
    rows = tuple(
        (
            f"{table_label(one.metric, conditions)}, {one.count:,} cases{' with several images' * one.several}",
            with_range(one.image),
            with_range(one.case),
            with_range(one.gain, "+.3f"),
        )
        for one in gain
    )
    splits = {"validation": fit.apply(evidence.val), "test": fit.apply(test)}
    pooled = {(how, split): per_case(one, how) for how in POOLINGS for split, one in splits.items()}
    values = {key: CaseStatistics.build(one, metrics=_SHOWN).whole() for key, one in pooled.items()}
    poolings = tuple(
        (f"{how.replace('_', ' ')}, {split}", *(number(values[how, split][name]) for name in _SHOWN))
        for how, split in pooled
    )
    rule = fit_conformal(per_case(evidence.val), settings.set_coverage, temperature=fit.temperature)
    sets = conformal_report(rule, per_case(test))
    case = np.unique(test.cases, return_inverse=True)[1]
    labels = np.zeros((case.max() + 1, conditions), dtype=bool)
    np.logical_or.at(labels, case, test.positive)
    differ = len(np.unique(case[(labels[case] != test.positive).any(axis=1)]))
    return Section(
        key="cases",
        title="One answer per case",
        paragraphs=(
            "The answer of a case is pooled from those of its images: the mean of their logits, unless said otherwise. "
            "Images beside it are weighted so that every case counts alike; the difference is of the same cases.",
            f"A case lists what any of its images lists; in {differ:,} of {len(labels):,} cases the images differ in "
            "that. Its primary condition is its first image's.",
            f"Prediction sets per case, of {settings.set_coverage:.0%} stated coverage, chosen on the cases of "
            f"validation, hold a positive condition in {percent(sets['coverage_any'])} of cases with "
            f"{number(sets['mean_set_size'], 2)} conditions on average.",
        ),
        tables=(
            Table("What pooling gains", ("", "per image", "per case", "difference"), rows),
            Table(
                "Ways to pool (calibrated logits; take the one that validation likes)",
                ("", *(table_label(name, conditions, short=True) for name in _SHOWN)),
                poolings,
            ),
        ),
        data={
            "gain": gain,
            "poolings": {f"{how}/{split}": found for (how, split), found in values.items()},
            "sets": sets,
            "differing_labels": differ,
        },
    )
