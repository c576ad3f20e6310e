"""Predictions of a model on the splits of its run, of the refit on them, and of the probes beside it."""

import time
from dataclasses import dataclass, replace

from rich.console import Console

from siglip_med.data.splitting.look_alikes import SplitLookAlikes
from siglip_med.inference import predict_split, probe_splits
from siglip_med.inference.probe import look_alikes
from siglip_med.inference.refit import fit_refit, refit_answers
from siglip_med.metrics import Predictions
from siglip_med.models import Refit
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
class Probed:
    """What the base's features say: probes by the name of the baseline, and look-alikes across splits."""

    probes: dict[str, SplitPredictions]
    look_alikes: SplitLookAlikes | None

    def beside(self, predictions: SplitPredictions) -> SplitPredictions:
        """Predictions whose test images know how alike the nearest training image looks."""
        if self.look_alikes is None:
            return predictions
        test, found = predictions.test, self.look_alikes
        meta = test.meta | {"look_alikes": found.sentence()}
        return replace(predictions, test=replace(test, nearest=found.nearest, meta=meta))


def fit_probes(components: Components, zero_shot: SplitPredictions, images: int, seed: int) -> Probed:
    """Probes of the base's image features, before anything of it is trained, and what looks alike by them.

    Args:
        components: with the base as it was pretrained.
        zero_shot: its predictions.
        images: most training images that are embedded; 0: no probe.
        seed: chooses them.
    """
    if not images:
        return Probed({}, look_alikes(components.data))
    frames = (zero_shot.val, zero_shot.test)
    *probes, found = probe_splits(components.model, components.data, frames, zero_shot.features, images, seed)
    probed = Probed({name: SplitPredictions(*parts) for name, parts in zip(PROBES, probes, strict=True)}, found)
    return replace(probed, probes={name: probed.beside(parts) for name, parts in probed.probes.items()})


def refit(components: Components, prompts: SplitPredictions, images: int, seed: int) -> Refit:
    """Fits the refit on the tower as it is, and prints how, what it took and what a checkpoint will keep of it.

    Args:
        components: with the trained model.
        prompts: its predictions, with their features.
        images: most training images that are embedded.
        seed: chooses them.
    """
    start = time.monotonic()
    found = fit_refit(components.model, components.data, prompts.val, prompts.features[0], images, seed)
    Console().print(
        f"  refit: {found.about}; {time.monotonic() - start:.1f} s; the checkpoint keeps {found.megabytes:.1f} MB, "
        f"features of {len(found.centers):,} training images among it (docs/reliability.md)",
        soft_wrap=True, highlight=False, markup=False,
    )  # fmt: skip
    return found


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
