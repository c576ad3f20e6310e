"""Predictions of a model on the splits of its run, and of the probes beside it."""

from dataclasses import dataclass, replace

from siglip_med.data.splitting.look_alikes import SplitLookAlikes
from siglip_med.inference import predict_split, probe_splits
from siglip_med.inference.probe import look_alikes
from siglip_med.metrics import Predictions
from siglip_med.report.evidence import PROBES
from siglip_med.report.summary import SplitPredictions
from siglip_med.runs.components import Components


def predict(components: Components) -> SplitPredictions:
    """Scores validation and test with the model as it is."""
    return SplitPredictions(predict_part(components, "val"), predict_part(components, "test"))


def predict_part(components: Components, split: str, progress: bool = True) -> Predictions:
    """Scores one split with the model as it is; arguments as in `predict_split`."""
    c = components
    return predict_split(c.model, c.prompt_ensemble, c.data, c.conditions, c.dissimilarity, split, progress)


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
    *probes, found = probe_splits(components.model, components.data, frames, images, seed)
    probed = Probed({name: SplitPredictions(*parts) for name, parts in zip(PROBES, probes, strict=True)}, found)
    return replace(probed, probes={name: probed.beside(parts) for name, parts in probed.probes.items()})
