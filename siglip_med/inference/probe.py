"""A linear probe of a model's frozen image features: the baseline that training has to beat."""

import numpy as np
import torch

from siglip_med.data import LabeledData
from siglip_med.metrics import Predictions, fit_probe
from siglip_med.models import TwoTower
from siglip_med.tracking import tracked


def probe_splits(
    model: TwoTower, data: LabeledData, frames: tuple[Predictions, Predictions], limit: int | None, seed: int
) -> tuple[Predictions, Predictions]:
    """Fits a probe on the training split and judges validation and test with it.

    Args:
        model: the base, before anything of it is trained.
        data: the images, or the features of a frozen tower.
        frames: the model's own predictions of validation and test, for their labels.
        limit: most training images that are embedded, drawn at random; None for all.
        seed: of that draw.

    Returns:
        The probe's predictions of validation and test; their ``meta["probe"]`` says how it was fitted.
    """
    train = np.asarray(data.split.train)
    chosen = train
    if limit is not None and limit < len(train):
        chosen = np.random.default_rng((seed, 4)).choice(train, size=limit, replace=False)
    features, rows = frozen_features(model, data, "train", chosen)
    of_val, of_test = (frozen_features(model, data, split)[0] for split in ("val", "test"))
    primary = data.table.frame["primary"].to_numpy()[rows]
    val, test = frames
    probe = fit_probe(features, primary, of_val, val.primary, of=len(train))
    return probe.predict(of_val, val), probe.predict(of_test, test)


@torch.no_grad()
def frozen_features(
    model: TwoTower, data: LabeledData, split: str, chosen: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features ``[n, F]`` of a split's images in float32, and their ``[n]`` rows of the table.

    Args:
        model: runs on the device it is on.
        data: pixels, states or features.
        split: ``train``, ``val`` or ``test``.
        chosen: rows to embed; None for the whole split.
    """
    training, device = model.training, model.logit_scale.device
    model.eval()
    features, rows = [], []
    for batch in tracked(data.full_loader(split), f"linear probe: {split} images"):
        kept = torch.ones(len(batch.index), dtype=torch.bool)
        if chosen is not None:
            kept = torch.from_numpy(np.isin(batch.index.cpu().numpy(), chosen))
        if kept.any():
            features.append(model.pooled_features(batch.images[kept].to(device)).float().cpu())
            rows.append(batch.index.cpu()[kept])
    model.train(training)
    return torch.cat(features).numpy(), torch.cat(rows).numpy()
