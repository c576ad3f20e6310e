"""TRIPOD+AI (Collins et al., BMJ 2024;385:e078378): the items that a program can know of a run, filled in."""

import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from markupsafe import Markup

from siglip_med.core.provenance import described
from siglip_med.data.table import SPLITS
from siglip_med.report.inputs import ReportInputs
from siglip_med.report.page import Page, bounds, environment, number

CHECKLIST = "checklist.md"
_AUTHORS = Markup("**for the authors**")
_NOT_RECORDED = "not recorded in this run's files"


def checklist(inputs: ReportInputs, page: Page) -> str:
    """The checklist as Markdown; every item says what the run's files say, or is marked for the authors."""

    def of(key: str) -> str:
        return _node(inputs.meta.config, key)

    def fact(name: str) -> str:
        return page.facts.get(name, "").rstrip(".") or _NOT_RECORDED

    elsewhere = [external_line(name, found) for name, found in inputs.external.items()]
    template = environment().get_template("checklist.md.jinja")
    filled = template.render(
        page=page,
        name=inputs.meta.name,
        authors=_AUTHORS,
        version=version("siglip-med"),
        of=of,
        fact=fact,
        left_out=_left_out(inputs),
        sizes=_sizes(inputs),
        headline="; ".join(f"{card.label} {card.value} {card.interval}".rstrip() for card in page.cards),
        external="; ".join(elsewhere) or "no external validation in the run's folder",
    )
    return filled + "\n"


def external_line(name: str, found: Mapping[str, Any]) -> str:
    """R@1 and MRR of an external validation with their intervals, from its ``metrics.json``; drawings are named."""
    images, cases = found["judged"]
    compared = {label: found["compared"][key]["external"] for key, label in (("r_at_1", "R@1"), ("mrr", "MRR"))}
    told = ", ".join(f"{label} {stated(one)}" for label, one in compared.items())
    drawings = " (DRAWINGS)" if "DRAWINGS" in str(found.get("notice")) else ""
    return f"{name}{drawings}, {images:,} images of {cases:,} cases: {told}"


def stated(value: Mapping[str, Any] | float) -> str:
    """A metric as files keep it, with its interval where it has one; what is undefined is a dash."""
    of = value if isinstance(value, Mapping) else {"estimate": value}
    low, high = (math.nan if of.get(end) is None else of[end] for end in ("low", "high"))
    return f"{number(of['estimate'])} {bounds(low, high)}".rstrip()


def _node(config: Mapping[str, Any], key: str) -> str:
    """A node of the config, or its value, on one line."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return _NOT_RECORDED
        node = node[part]
    if not isinstance(node, Mapping):
        return "none" if node is None else str(node)
    return described(node) or "none"


def _sizes(inputs: ReportInputs) -> str:
    if (split := inputs.split) is None:
        return "; ".join(f"{one.split} {one.size}" for one in (inputs.val, inputs.test))
    return "; ".join(f"{name} {split.images[name]:,} images of {split.cases[name]:,} cases" for name in SPLITS)


def _left_out(inputs: ReportInputs) -> str:
    if (split := inputs.split) is None:
        return _NOT_RECORDED
    reasons = "; ".join(f"{one.count:,} left out: {one.reason}" for one in split.left_out) or "none left out"
    return f"{split.read:,} {split.unit} read, {split.used:,} used; {reasons}"
