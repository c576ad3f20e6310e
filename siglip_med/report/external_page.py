"""The page of an external validation: what was matched, what had been seen, the numbers, and why they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from siglip_med.conditions.matching import KINDS, SEPARATOR, Match
from siglip_med.metrics.bootstrap import Interval
from siglip_med.metrics.external import DRAWS, Compared, Explained, PriorByEM
from siglip_med.metrics.names import metric_label, table_label
from siglip_med.report.page import Card, Page, Section, Table, bounds, change, number, percent, with_range


@dataclass(frozen=True)
class ExternalFindings:
    """What an external validation found.

    Attributes:
        name: of the external set; ``run``: of the run.
        run: the run's folder.
        matches: of each label, with ``images`` and ``cases`` that list it.
        images: ``[E]``; ``cases``: ``[E]``.
        cases: as ``images``.
        kinds: kind -> images and cases, by the first label of each image.
        leaks: kind of leak -> images; ``kept`` tells whether they count all the same.
        kept: see there.
        judged: images and cases that the numbers are of.
        internal: images and cases of the run's test that are judged beside them.
        conditions: C of the model; ``shared``: groups that the external set has, of which ``untested`` have no
            internal test image.
        shared: see there.
        untested: see there.
        compared: by metric; ``explained``: by metric.
        explained: see there.
        prior: by EM.
        labelled: k -> metric -> interval; ``too_many``: k that were left out.
        too_many: see there.
        notes: on the external table, a sentence each.
        notice: what the images are.
    """

    name: str
    run: str
    matches: Sequence[Match]
    images: np.ndarray
    cases: np.ndarray
    kinds: Mapping[str, tuple[int, int]]
    leaks: Mapping[str, int]
    kept: bool
    judged: tuple[int, int]
    internal: tuple[int, int]
    conditions: int
    shared: int
    untested: int
    compared: Mapping[str, Compared]
    explained: Mapping[str, Explained]
    prior: PriorByEM
    labelled: Mapping[int, Mapping[str, Interval]]
    too_many: Sequence[int]
    notes: Sequence[str]
    notice: str

    def numbers(self) -> dict[str, Any]:
        """Everything but sentences, for ``metrics.json``."""
        sizes = {name: dict(zip(("images", "cases"), size, strict=True)) for name, size in self.kinds.items()}
        sizes |= {n: {"images": s[0], "cases": s[1]} for n, s in (("judged", self.judged), ("internal", self.internal))}
        prior = {"calibration": asdict(self.prior.calibration), "prior": self.prior.prior}
        prior |= {"distance": self.prior.distance, "distance_of_training": self.prior.distance_before}
        prior |= {"change": {name: asdict(one) for name, one in self.prior.change.items()}, "harms": self.prior.harms}
        return {
            "name": self.name,
            "sizes": sizes,
            "leaks": dict(self.leaks) | {"left_out": not self.kept},
            "metrics": {name: asdict(one) for name, one in self.compared.items()},
            "reweighted": {name: asdict(one) for name, one in self.explained.items()},
            "em_prior": prior,
            "labelled_cases": {k: {n: asdict(one) for n, one in row.items()} for k, row in self.labelled.items()},
        }

    def lines(self) -> list[str]:
        """What was matched, left out and found, a line each: for the screen."""
        found = [f"{kind}: {self.kinds[kind][0]:,} images of {self.kinds[kind][1]:,} cases" for kind in KINDS]
        found.append(self.leak_sentence())
        found.append(f"judged: {self.judged[0]:,} images of {self.judged[1]:,} cases; the run's own test beside them: ")
        found[-1] += f"{self.internal[0]:,} of {self.internal[1]:,}"
        for name, one in self.compared.items():
            ends = f"{one.difference.estimate:+.3f} {bounds(one.difference.low, one.difference.high, '+.3f')}"
            found.append(f"{table_label(name, self.conditions)}: {with_range(one.external)}, {ends} to the own test")
        return [*found, *self.prior_sentences(), *self.notes]

    def leak_sentence(self) -> str:
        """What the run has seen of the set."""
        counts = ", ".join(f"{count:,} {kind}" for kind, count in self.leaks.items())
        return f"seen in training or validation: {counts}; they {'count all the same' if self.kept else 'are left out'}"

    def prior_sentences(self) -> list[str]:
        """How near EM came, and whether that helps or does harm."""
        p = self.prior
        said = [
            f"frequencies by EM on the unlabelled images: {p.distance:.3f} from the true ones (total variation), the "
            f"training split's {p.distance_before:.3f}"
        ]
        rises = [name for name, one in p.change.items() if one.low > 0]
        if p.harms:
            said.append(f"EM does harm here: {_listed(p.harms)} fall with it; leave the scores as they are")
        elif rises:
            said.append(f"EM helps here: {_listed(rises)} rise with it")
        else:
            said.append("EM shows neither help nor harm here")
        return said


def _listed(names: Sequence[str]) -> str:
    return ", ".join(metric_label(name, short=True) for name in names)


def build_external_page(f: ExternalFindings) -> Page:
    """The page of what was found."""
    cards = tuple(
        Card(
            metric_label(name, short=True),
            number(one.external.estimate),
            bounds(one.external.low, one.external.high),
            f"own test {number(one.internal.estimate)}",
        )
        for name, one in f.compared.items()
        if name in ("r_at_1", "r_at_5", "mrr", "macro_r_at_1")
    )
    lead = f"The run's model on {f.name}, which it was not trained on, beside its own test on the same conditions."
    facts = {"run": f.run, "judged": f"{f.judged[0]:,} images of {f.judged[1]:,} cases"}
    facts |= {"own test": f"{f.internal[0]:,} images of {f.internal[1]:,} cases"}
    sections = (_numbers(f), _why(f), _matching(f), _leaks(f))
    return Page(f"External validation: {f.name}", lead, facts, cards, sections, f.notice)


def _numbers(f: ExternalFindings) -> Section:
    rows = tuple(
        (table_label(name, f.conditions), with_range(one.external), with_range(one.internal), _signed(one.difference))
        for name, one in f.compared.items()
    )
    said = [
        "Of a label that is coarser than the model's conditions any of them is right; the own test is judged as "
        "coarsely. Both rank all conditions of the model. The cases of each set are resampled on their own.",
        f"{f.shared:,} conditions or sets of conditions are shared; {f.untested:,} of them have no image in the own "
        "test, so its macro mean is without them.",
    ]
    columns = ("metric", f.name, "own test", "difference")
    return Section("numbers", "Does it hold?", tuple(said), (Table("Both sets", columns, rows),))


def _why(f: ExternalFindings) -> Section:
    weighted = tuple(
        (metric_label(name), with_range(one.reweighted), _signed(one.change), _share(one.share))
        for name, one in f.explained.items()
    )
    adjusted = tuple((metric_label(name), change(one)) for name, one in f.prior.change.items())
    names = tuple(next(iter(f.labelled.values()), {}))
    few = tuple((f"{k:,}", *(with_range(row[name]) for name in names)) for k, row in f.labelled.items())
    tables = (
        Table(
            "Conditions as frequent as in training",
            ("metric", "re-weighted", "change", "share of the drop"),
            weighted,
        ),
        Table("Prior by EM against calibrated alone", ("metric", "difference"), adjusted),
        Table("Labelled cases", ("cases", *(metric_label(name, f.conditions) for name in names)), few),
    )
    said = [
        "A share of the drop is undefined (–) where nothing dropped.",
        *(f"{sentence[0].upper()}{sentence[1:]}." for sentence in f.prior_sentences()),
        f"Temperature and biases are fitted on so many labelled cases, drawn {DRAWS} times, and judged on the others; "
        "0 is the fit of the run's validation. A site reads here how much to label.",
    ]
    said += [f"Left out, since more than half of the cases: {', '.join(map(str, f.too_many))}."] * bool(f.too_many)
    return Section("why", "Why it differs", tuple(said), tables)


def _matching(f: ExternalFindings) -> Section:
    kinds = tuple((kind, f"{f.kinds[kind][0]:,}", f"{f.kinds[kind][1]:,}") for kind in KINDS)
    rows = tuple(
        (m.external, m.code, m.kind, SEPARATOR.join(m.conditions), f"{images:,}", f"{cases:,}")
        for m, images, cases in zip(f.matches, f.images, f.cases, strict=True)
    )
    columns = ("label", "code", "kind", "model's conditions", "images", "cases")
    tables = (
        Table("By the first label of each image", ("kind", "images", "cases"), kinds),
        Table("Every label", columns, rows, text_columns=4, tall=True),
    )
    said = (
        "Images whose labels are all unknown are not judged. Change matches.csv and give it back: external.matches=….",
        *f.notes,
    )
    return Section("matching", "What was matched", said, tables)


def _leaks(f: ExternalFindings) -> Section:
    said = f.leak_sentence()
    return Section("leaks", "What the run had seen", (f"{said[0].upper()}{said[1:]}. Each is in leaks.csv.",))


def _signed(interval: Interval) -> str:
    return f"{interval.estimate:+.3f} {bounds(interval.low, interval.high, '+.3f')}".rstrip()


def _share(interval: Interval) -> str:
    return f"{percent(interval.estimate)} {bounds(interval.low, interval.high, '.0%')}".rstrip()
