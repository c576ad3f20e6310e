"""The page of an external validation: the numbers, why they differ, what was matched, and what had been seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siglip_med.conditions.matching import COLUMNS, SEPARATOR, Match
from siglip_med.metrics import (
    DRAWS,
    REWEIGHTED,
    SET_METRICS,
    Compared,
    Explained,
    Interval,
    PriorByEM,
    metric_label,
    table_label,
)
from siglip_med.report.page import Card, Page, Section, Table, bounds, change, number, percent, with_range

_CARDS = ("r_at_1", "r_at_5", "mrr", "macro_r_at_1", "icd_distance_all", "icd_distance_top5")
_SETS = dict(
    zip(SET_METRICS, ("prediction sets with a positive condition", "conditions in a prediction set"), strict=True)
)


@dataclass(frozen=True)
class ExternalFindings:
    """What was found; pairs of numbers are images and cases.

    Attributes:
        name: of the external set.
        run: name of the run's folder.
        matches: of each label; ``listed``: ``[E, 2]`` that list it.
        kinds: by the first label of each image.
        leaks: images by kind; ``kept`` tells whether they count all the same.
        judged: of the external set; ``internal``: of the own test beside it; ``untested``: shared conditions without
            an image in that.
        compared: by metric, like ``explained``; ``labelled``: by number of cases; ``too_many``: of which there are not.
        own_labels: of each model, of `rank_own_labels`; ``groups``: rows of `subgroup_metrics`.
        notes: on the external table.
        notice: what the images are.
    """

    name: str
    run: str
    matches: Sequence[Match]
    listed: np.ndarray
    kinds: Mapping[str, tuple[int, int]]
    leaks: Mapping[str, int]
    kept: bool
    judged: tuple[int, int]
    internal: tuple[int, int]
    untested: int
    compared: Mapping[str, Compared]
    own_labels: Mapping[str, Mapping[str, Mapping[str, Interval]]]
    groups: Sequence[Mapping[str, Any]]
    explained: Mapping[str, Explained]
    prior: PriorByEM
    labelled: Mapping[int, Mapping[str, Interval]]
    too_many: Sequence[int]
    notes: Sequence[str]
    notice: str

    def lines(self) -> list[str]:
        """What was matched, left out and found, a line each: for the screen."""
        sizes = {**self.kinds, "judged": self.judged, "the run's own test of the same conditions": self.internal}
        return [
            *(f"{name}: {images:,} images of {cases:,} cases" for name, (images, cases) in sizes.items()),
            *self.seen(),
            *(
                f"{_label(name)}: {with_range(one.external)}, {_signed(one.difference)} to the own test"
                for name, one in self.compared.items()
            ),
            *self.by_em(),
            *(
                f"own labels by their prompts, {model}, {group}: MRR {with_range(found['mrr'])}"
                for model, groups in self.own_labels.items()
                for group, found in groups.items()
            ),
            *self.notes,
        ]

    def seen(self) -> list[str]:
        """What the run has seen of the set, and of what its own test has nothing."""
        counts = ", ".join(f"{count:,} {kind}" for kind, count in self.leaks.items())
        said = [
            f"seen in training or validation: {counts}; they {'count all the same' if self.kept else 'are left out'}"
        ]
        missing = f"{self.untested:,} shared conditions have no image in the own test; its macro mean is without them"
        return said + [missing] * bool(self.untested)

    def by_em(self) -> list[str]:
        """How near EM came to the true frequencies, and whether that helps or does harm."""
        p, rises = self.prior, [name for name, one in self.prior.change.items() if one.low > 0]
        falls = [metric_label(name, short=True) for name in p.harms]
        falls += ["its frequencies are farther off than training's"] * (p.distance > p.distance_before)
        helps = (
            f"helps: higher {', '.join(metric_label(name, short=True) for name in rises)}"
            if rises
            else "changes little"
        )
        return [
            f"frequencies by EM on the unlabelled images: {p.distance:.3f} from the true ones (total variation), the "
            f"training split's {p.distance_before:.3f}",
            f"EM does harm here ({', '.join(falls)}); leave the scores as they are" if falls else f"EM {helps}",
        ]


def build_external_page(f: ExternalFindings) -> Page:
    """The page of what was found."""
    cards = tuple(
        Card(table_label(name, short=True), number(a.estimate), bounds(a.low, a.high), f"own test {number(b.estimate)}")
        for name, (a, b) in ((name, (one.external, one.internal)) for name, one in f.compared.items())
        if name in _CARDS
    )
    facts = {"run": f.run, "judged": "{:,} images of {:,} cases".format(*f.judged)}
    facts |= {"own test": "{:,} images of {:,} cases".format(*f.internal)}
    both = (
        (_label(name), with_range(one.external), with_range(one.internal), _signed(one.difference))
        for name, one in f.compared.items()
    )
    weighted = (
        (
            metric_label(name),
            with_range(one.reweighted),
            _signed(one.change),
            f"{percent(one.share.estimate)} {bounds(one.share.low, one.share.high, '.0%')}".rstrip()
            if f.compared[name].difference.high < 0
            else number(None),
        )
        for name, one in f.explained.items()
    )
    names = tuple(next(iter(f.labelled.values()), {}))
    few = ((f"{k:,}", *(with_range(row[name]) for name in names)) for k, row in f.labelled.items())
    labels = (
        (m.external, m.code, m.kind, SEPARATOR.join(m.conditions), *(f"{count:,}" for count in counts))
        for m, counts in zip(f.matches, f.listed.tolist(), strict=True)
    )
    numbers = Section(
        "numbers",
        "Does it hold?",
        (
            "Of a label that is coarser than the model's conditions any of them is right, and the own test is judged "
            "as coarsely. Both rank all conditions of the model. The cases of each set are resampled on their own. "
            "Prediction sets are those that hold a positive condition for 90% of the run's validation.",
        ),
        (
            Table("Both sets", ("metric", f.name, "own test", "difference"), tuple(both)),
            *_group_table(f.groups),
            _own_labels_table(f.own_labels),
        ),
    )
    why = Section(
        "why",
        "Why it differs",
        (
            *map(_sentence, f.by_em()),
            f"Temperature and biases are fitted on so many labelled cases, drawn {DRAWS} times, and judged on the "
            "others; 0 is the fit of the run's validation.",
            *(f"{k} cases are more than half of the set, and left out." for k in f.too_many),
        ),
        (
            Table(
                "Conditions as frequent as in training",
                ("metric", "re-weighted", "change", "share of the drop (–: none beyond its interval)"),
                tuple(weighted),
            ),
            Table(
                "Prior by EM less calibrated alone",
                ("metric", "difference"),
                tuple((metric_label(name), change(one)) for name, one in f.prior.change.items()),
            ),
            Table("Labelled cases", ("cases", *map(metric_label, names)), tuple(few)),
        ),
    )
    matching = Section(
        "matching",
        "What was matched and what had been seen",
        (
            "Images whose labels are all unknown are not judged. Change matches.csv and give it back: "
            "external.matches=…/matches.csv.",
            *map(_sentence, (*f.seen(), *f.notes)),
        ),
        (
            Table(
                "By the first label of each image",
                ("kind", "images", "cases"),
                tuple((kind, f"{images:,}", f"{cases:,}") for kind, (images, cases) in f.kinds.items()),
            ),
            Table("Every label", COLUMNS, tuple(labels), text_columns=4, tall=True),
        ),
    )
    lead = f"The run's model on {f.name}, which it was not trained on, beside its own test on the same conditions."
    return Page(f"External validation: {f.name}", lead, facts, cards, (numbers, why, matching), f.notice)


def _group_table(groups: Sequence[Mapping[str, Any]]) -> tuple[Table, ...]:
    """A table where anything is known of the patients."""
    rows = tuple(
        (
            *(str(row[name]) for name in ("attribute", "group")),
            *(f"{row[name]:,}" for name in ("images", "cases")),
            *(with_range(Interval(row[m], row[f"{m}_low"], row[f"{m}_high"])) for m in REWEIGHTED),
        )
        for row in groups
    )
    columns = ("attribute", "group", "images", "cases", *map(metric_label, REWEIGHTED))
    return (Table("By patients, on the external set", columns, rows, text_columns=2),) if rows else ()


def _own_labels_table(found: Mapping[str, Mapping[str, Mapping[str, Interval]]]) -> Table:
    rows = tuple(
        (model, group, *map(with_range, metrics.values()))
        for model, groups in found.items()
        for group, metrics in groups.items()
    )
    names = tuple(next(iter(next(iter(found.values())).values())))
    caption = "The set's own labels, ranked by their prompts, known to the model or not"
    return Table(caption, ("model", "images", *map(metric_label, names)), rows, text_columns=2)


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}."


def _label(name: str) -> str:
    return _SETS[name] if name in _SETS else table_label(name)


def _signed(interval: Interval) -> str:
    return with_range(interval, "+.3f")
