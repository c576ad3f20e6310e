"""Predictions of a model on the splits of its run, and of the probes beside it."""

from siglip_med.inference import predict_split, probe_splits
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


def fit_probes(
    components: Components, zero_shot: SplitPredictions, images: int, seed: int
) -> dict[str, SplitPredictions]:
    """Probes of the base's image features, before anything of it is trained, by the name of the baseline.

    Args:
        components: with the base as it was pretrained.
        zero_shot: its predictions.
        images: most training images that are embedded; 0: no probe.
        seed: chooses them.
    """
    if not images:
        return {}
    frames = (zero_shot.val, zero_shot.test)
    found = probe_splits(components.model, components.data, frames, images, seed)
    return {name: SplitPredictions(*parts) for name, parts in zip(PROBES, found, strict=True)}
