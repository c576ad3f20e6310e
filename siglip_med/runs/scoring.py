"""Predictions of a model on the splits of its run, of the refit on them, and of the probes beside it."""

import time
from dataclasses import dataclass, replace

import numpy as np

from siglip_med.core.outside import Console
from siglip_med.core.ranges import UNFAMILIAR
from siglip_med.data import LabeledData
from siglip_med.data.quality import FAULTS
from siglip_med.data.splitting.look_alikes import SplitLookAlikes
from siglip_med.inference import predict_split
from siglip_med.inference.familiarity import distances, split_faults
from siglip_med.inference.probe import ProbeFeatures, look_alikes
from siglip_med.inference.refit import fit_refit, refit_answers
from siglip_med.inference.splits import Embedded
from siglip_med.metrics import Predictions
from siglip_med.models import Familiarity, Refit
from siglip_med.report.evidence import PROBES
from siglip_med.report.summary import SplitPredictions
from siglip_med.runs.components import Components


def predict(components: Components) -> SplitPredictions:
    """Scores validation and test with the model as it is, by the prompts."""
    c = components
    (val, of_val), (test, of_test) = (
        predict_split(c.model, c.prompt_ensemble, c.data, c.conditions, c.dissimilarity, split)
        for split in ("val", "test")
    )
    return SplitPredictions(val, test, (of_val, of_test))


def predict_part(components: Components, split: str, fitted: Refit | None = None) -> Predictions:
    """Scores one split by the prompts, or by a refit, without a bar; arguments as in `predict_split`."""
    c = components
    frame, features = predict_split(
        c.model, c.prompt_ensemble, c.data, c.conditions, c.dissimilarity, split, progress=False
    )
    return frame if fitted is None else refit_answers(fitted.cpu(), features, frame)


@dataclass(frozen=True)
class Base:
    """The base of a run, as it was before anything of it is trained.

    Attributes:
        data: of the run.
        zero_shot: its predictions.
        features: what its probes are fitted on; None for no probes.
        look_alikes: across splits, by its features.
    """

    data: LabeledData
    zero_shot: SplitPredictions
    features: ProbeFeatures | None
    look_alikes: SplitLookAlikes | None

    @classmethod
    def judge(cls, components: Components, images: int, seed: int) -> "Base":
        """Scores zero-shot, and embeds at most ``images`` training images by ``seed``; 0: no probe."""
        data, zero_shot = components.data, predict(components)
        if not images:
            return cls(data, zero_shot, None, look_alikes(data))
        features = ProbeFeatures.embed(components.model, data, zero_shot.features, images, seed)
        return cls(data, zero_shot, features, features.look_alikes(data))

    def probes(self) -> dict[str, SplitPredictions]:
        """Baseline -> predictions: fits the probes, which takes seconds that a first step need not wait for."""
        if self.features is None:
            return {}
        fitted = self.features.probes(self.data, self.zero_shot.val, self.zero_shot.test)
        return {name: self.beside(SplitPredictions(*parts)) for name, parts in zip(PROBES, fitted, strict=True)}

    def beside(self, predictions: SplitPredictions) -> SplitPredictions:
        """Predictions whose test images know how alike the nearest training image looks."""
        if self.look_alikes is None:
            return predictions
        test, found = predictions.test, self.look_alikes
        meta = test.meta | {"look_alikes": found.sentence()}
        return replace(predictions, test=replace(test, nearest=found.nearest, meta=meta))


def refit(components: Components, prompts: SplitPredictions, images: int, seed: int) -> tuple[Refit, Embedded]:
    """Fits the refit on the tower as it is, and prints how, what it took and what a checkpoint will keep of it.

    Returns what `fit_refit` does.

    Args:
        components: with the trained model.
        prompts: its predictions, with their features.
        images: most training images that are embedded.
        seed: chooses them.
    """
    start = time.monotonic()
    found, embedded = fit_refit(components.model, components.data, prompts.val, prompts.features[0], images, seed)
    Console().print(
        f"  refit: {found.about}; {time.monotonic() - start:.1f} s; the checkpoint keeps {found.megabytes:.1f} MB, "
        f"features of {len(found.centers):,} training images among it (docs/reliability.md)",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    return found, embedded


def answers(refit: Refit | None, prompts: SplitPredictions) -> SplitPredictions:
    """The refit's predictions in place of the prompts'; without a refit, those."""
    if refit is None:
        return prompts
    refit = refit.cpu()
    val, test = (
        refit_answers(refit, features, frame)
        for features, frame in zip(prompts.features, (prompts.val, prompts.test), strict=True)
    )
    return replace(prompts, val=val, test=test)


def familiar(
    components: Components, refit: Refit | None, tuned: SplitPredictions, rule: Familiarity | None = None
) -> tuple[Familiarity, SplitPredictions]:
    """Says how familiar validation and test photographs are, and prints how many of test are not.

    Args:
        components: with the trained model.
        refit: of the run, or None.
        tuned: the run's answers, with the features of their images.
        rule: of an earlier fit; None fits one on validation.
    """
    of_val, of_test = (_faults(components, split) for split in ("val", "test"))
    if rule is None:
        rule = Familiarity.fit(tuned.val.logits, distances(refit, tuned.features[0]), of_val, FAULTS)
    val = _judged(tuned.val, rule, refit, tuned.features[0], of_val)
    test = _judged(tuned.test, rule, refit, tuned.features[1], of_test)
    by = "energy and nearest training image" if rule.distance else "energy alone (refit=null keeps no training image)"
    said = [f"by {by}, p < {UNFAMILIAR:g} against {len(val):,} validation images"]
    said += [f"{test.unfamiliar.sum():,} of {len(test):,} test images are unfamiliar"]
    said += ["validation is too small to call any without a fault so"] * (len(val) <= 1 / UNFAMILIAR - 1)
    said += [f"{name} ones are usual here" for name in FAULTS if name not in rule.faults]
    Console().print(f"  familiarity: {'; '.join(said)}", soft_wrap=True, highlight=False)
    return rule, replace(tuned, val=val, test=test)


def with_familiarity(
    components: Components,
    split: str,
    predictions: Predictions,
    rule: Familiarity,
    refit: Refit | None,
    features: np.ndarray,
) -> Predictions:
    """Predictions of a split that know how familiar each image is; ``features`` are its ``[N, F]`` pooled ones."""
    return _judged(predictions, rule, refit, features, _faults(components, split))


def _faults(components: Components, split: str) -> list[str]:
    found = split_faults(components.data, split, components.model.image_spec)
    if lost := sum(one is None for one in found):
        Console().print(f"  {lost:,} files of {split} are gone since they were read: their quality is taken for good")
    return [one or "" for one in found]


def _judged(
    predictions: Predictions, rule: Familiarity, refit: Refit | None, features: np.ndarray, faults: list[str]
) -> Predictions:
    p = rule.p_values(predictions.logits, distances(refit, features), faults)
    return replace(predictions, familiarity=p.astype(np.float32))
