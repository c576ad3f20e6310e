"""The baseline of every frozen tower: logistic regression on its features, on the splits of finished runs.

``python experiments/linear_probe.py logs/photographs/baseline_seed*`` (runs with features=cached)
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from siglip_med.commands import train
from siglip_med.commands.evaluate import stored_components, stored_run
from siglip_med.metrics import CHOOSING, Predictions, headline_metrics
from siglip_med.training.components import Components

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Inverse regularization C; validation MRR chooses, as it chooses the checkpoint of a run."""

METRICS = ("r_at_1", "r_at_5", "macro_r_at_5", "icd_distance_all")


def features(components: Components, split: str) -> tuple[np.ndarray, np.ndarray]:
    """``[n, F]`` features and the ``[n]`` first condition of each image, in the order of predictions."""
    batches = list(components.data.full_loader(split))
    index = torch.cat([batch.index for batch in batches]).numpy()
    values = torch.cat([batch.images for batch in batches]).numpy()
    return values, components.data.table.frame["primary"].to_numpy()[index]


def scores(probe: Pipeline, values: np.ndarray, predictions: Predictions) -> dict[str, float]:
    """The run's own metrics, of the probe's decision values in place of the run's logits."""
    logits = np.full(predictions.logits.shape, -1e9, dtype=np.float32)  # a condition without a training image
    logits[:, probe.classes_] = probe.decision_function(values)
    return headline_metrics(predictions.with_logits(logits))


def probe_run(run: Path) -> dict[str, float | str]:
    """Fits the probe on a run's training split, chooses C on validation, scores the test split once."""
    stored = stored_run(run / "checkpoints" / "best.ckpt")
    if stored.features is None:
        raise SystemExit(f"{run}: a probe needs the features of a frozen tower; give runs with features=cached")
    components = stored_components(stored, torch.device("cpu"))
    predictions = train.predict(components)
    values, primary = features(components, "train")
    probes = {
        strength: make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(values, primary)
        for strength in STRENGTHS
    }
    validation = features(components, "val")[0], predictions.val
    chosen = max(STRENGTHS, key=lambda strength: scores(probes[strength], *validation)[CHOOSING])
    found = scores(probes[chosen], features(components, "test")[0], predictions.test)
    return {"run": run.name, "C": chosen} | {name: found[name] for name in METRICS}


def main() -> None:
    """Prints a row a run, and mean and standard deviation over runs."""
    table = pd.DataFrame([probe_run(Path(run)) for run in sys.argv[1:]])
    print(table.round(4).to_string(index=False))
    for name in METRICS:
        print(f"{name:<18}{table[name].mean():.3f} ± {table[name].std(ddof=1):.3f}")


if __name__ == "__main__":
    main()
