"""What a run has shown, in words. Every sentence follows from a paired interval over cases, by the rules below.

1. A difference is shown where its interval leaves 0 out; where it does not, the words are "not shown".
2. A gain in R@1 that is shown and smaller than `HARDLY` is called "hardly".
3. Lists are compared by the ICD distance of the first five; with five conditions or fewer by that of the first.
4. A model gives one answer too often where the most frequent one goes to more than `TOO_OFTEN` times the share of
   images that list it, and to `OFTEN` of all images at least.
5. R@1 in the half of the test images that look least like training is stated wherever that is known, against the
   linear probe by rule 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from siglip_med.metrics import Answers, Interval, PairedResult, metric_label, saturation
from siglip_med.report.page import gain, with_range

HARDLY = 0.05
TOO_OFTEN, OFTEN = 1.5, 0.2
AGAINST = ("r_at_1", "icd_distance_all", "icd_distance_top5")
"""The metrics that a verdict reads."""


@dataclass(frozen=True)
class Rival:
    """How sentences call what the run is compared with: ``than`` …, and what its name is in them."""

    than: str
    short: str


PRIOR = Rival("always naming the most frequent condition", "the class prior")
BEFORE = Rival("the same base before training", "zero-shot")
PROBED = Rival("a linear probe of the same frozen features", "the linear probe")
KERNEL = Rival("a kernel probe of the same frozen features", "the kernel probe")
PROMPTS = Rival("its own prompts, without the refit", "the prompts")


def verdict(
    against_prior: Mapping[str, PairedResult] | None,
    against_zero_shot: Mapping[str, PairedResult] | None,
    against_probes: Sequence[Mapping[str, PairedResult] | None],
    answers: Answers,
    conditions: int,
    against_prompts: Mapping[str, PairedResult] | None = None,
) -> tuple[str, ...]:
    """Sentences for the top of a report, from metric -> the run minus each rival (None where that was not measured).

    ``against_prompts``: where a refit answers; nothing is said of them where None.
    """
    said = [
        first_answer(PRIOR, against_prior),
        nearness(against_prior, conditions),
        first_answer(BEFORE, against_zero_shot),
        *(first_answer(rival, results) for rival, results in zip((PROBED, KERNEL), against_probes, strict=True)),
        "" if against_prompts is None else first_answer(PROMPTS, against_prompts),
        *variety(answers),
    ]
    return tuple(sentence for sentence in said if sentence)


def first_answer(rival: Rival, results: Mapping[str, PairedResult] | None) -> str:
    """Rules 1 and 2 on R@1."""
    if results is None:
        return f"Against {rival.short}: not measured."
    result = results["r_at_1"]
    numbers = f"R@1 {gain(result)}"
    if not np.isfinite(result.low):
        return f"Against {rival.short}: R@1 has no interval here."
    if result.low > 0:
        how = "hardly beats" if result.difference < HARDLY else "beats"
        return f"The model {how} {rival.than} ({numbers})."
    if result.high < 0:
        return f"The model is worse than {rival.than} ({numbers})."
    return f"It is not shown that the model is better than {rival.than} ({numbers})."


def nearness(results: Mapping[str, PairedResult] | None, conditions: int) -> str:
    """Rules 1 and 3 on how far, by ICD code, answers lie from the truth, against the class prior."""
    name = "icd_distance_all" if saturation("icd_distance_top5", conditions) else "icd_distance_top5"
    what = "first answer" if name == "icd_distance_all" else "list of five"
    if results is None or not np.isfinite(results[name].low):
        return ""
    result = results[name]
    numbers = f"{metric_label(name)} {gain(result)}, lower is nearer"
    if result.high < 0:
        return f"Its {what} is nearer in ICD-10 than {PRIOR.than} ({numbers})."
    if result.low > 0:
        return f"Its {what} is farther in ICD-10 than {PRIOR.than} ({numbers})."
    return f"It is not shown that its {what} is nearer in ICD-10 than {PRIOR.than} ({numbers})."


def variety(answers: Answers) -> list[str]:
    """Rule 4, and the conditions that are never answered."""
    said = []
    if answers.share >= OFTEN and answers.share > TOO_OFTEN * answers.listed:
        said.append(
            f"It answers {answers.most_frequent} too often: for {answers.share:.0%} of the images, of which "
            f"{answers.listed:.0%} list it."
        )
    if answers.never:
        named = ", ".join(answers.never[:3]) + (" and others" if len(answers.never) > 3 else "")
        said.append(f"It never answers {len(answers.never)} of the {answers.present} conditions of the test: {named}.")
    return said


def farthest(far: Interval, whole: float, cosine: float, against_probe: PairedResult | None) -> str:
    """Rule 5: R@1 in the half whose nearest training image has at most this cosine."""
    said = (
        f"In the half of the test images that look least like training (nearest cosine up to {cosine:.3f}) R@1 is "
        f"{with_range(far)}, for {whole:.3f} of all"
    )
    if against_probe is None or not np.isfinite(against_probe.low):
        return f"{said}."
    how = "it beats" if against_probe.low > 0 else "it is not shown to be better than"
    how = "it is worse than" if against_probe.high < 0 else how
    return f"{said}; there {how} {PROBED.short} (R@1 {gain(against_probe)})."
