"""Plants label errors on photographs and looks how many are found: confident learning beside plain loss and chance.

    python benchmarks/label_errors.py model.vision=path/to/dinov2-small model.text=path/to/all-minilm-l6-v2 \\
        data.source.root=path/to/fitzpatrick17k data.source.group_column=near_dup_group

A share of the first labels is changed to another condition at random. Heads (multinomial logistic regression on the
standardized features of the frozen vision tower) are fitted on four folds and judge the fifth, five times, so that each
image is judged by heads that saw neither it nor its case. Every split is by case (``data/splitter=kfold``).
"""

import sys

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from siglip_med.commands import train
from siglip_med.core.config import config_dir, typed
from siglip_med.data.splitting.split import KFoldSplitter
from siglip_med.metrics import find_label_errors
from siglip_med.runs.building import build

FOLDS, SHARE, SEEDS, STRENGTH = 5, 0.05, (0, 1, 2), 0.01


def features(overrides: list[str]) -> tuple[train.Components, np.ndarray]:
    """The data, and ``[N, F]`` features of the frozen vision tower in table order."""
    fixed = ["model=dual_encoder", "model/adaptation=frozen", "features=cached", "data=csv", "paths.output_dir=logs"]
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        config = compose("train", overrides=[*fixed, *overrides])
    components = build(typed(config, train.Settings), torch.device("cpu"))
    parts, rows = [], []
    for split in ("train", "val", "test"):
        for batch in components.data.full_loader(split):
            parts.append(batch.images.numpy())
            rows.append(batch.index.numpy())
    return components, np.concatenate(parts)[np.argsort(np.concatenate(rows))]


def out_of_fold(values: np.ndarray, given: np.ndarray, folds: list[np.ndarray], conditions: int) -> np.ndarray:
    """``[N, C]`` probabilities of heads that did not see the image."""
    probabilities = np.zeros((len(values), conditions))
    for held_out in folds:
        seen = ~held_out
        heads = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=500)).fit(
            values[seen], given[seen]
        )
        probabilities[np.ix_(held_out, heads.classes_)] = heads.predict_proba(values[held_out])
    return probabilities


def main() -> None:
    """Prints one row per seed."""
    components, values = features(sys.argv[1:])
    table = components.data.table
    clean, conditions = table.frame["primary"].to_numpy(), len(table.conditions)
    planted = round(SHARE * len(clean))
    print(f"{len(clean):,} images, {conditions} conditions, {planted} labels changed; precision = recall at {planted}")
    print(
        "| seed | normalized margin | plain loss | chance | confident learning: found, precision, recall | heads' R@1 |"
    )
    print("|---|---|---|---|---|---|")
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        given = clean.copy()
        changed = rng.choice(len(clean), size=planted, replace=False)
        given[changed] = (given[changed] + rng.integers(1, conditions, size=planted)) % conditions
        wrong = given != clean
        folds = [KFoldSplitter(FOLDS, fold).parts(table, seed) == "test" for fold in range(FOLDS)]
        probabilities = out_of_fold(values, given, folds, conditions)
        found = find_label_errors(probabilities, given)
        likely = found.likely()
        print(
            f"| {seed} | {wrong[np.argsort(found.margin, kind='stable')[:planted]].mean():.3f} | "
            f"{wrong[found.ranked()[:planted]].mean():.3f} | {wrong.mean():.3f} | "
            f"{len(likely):,}, {wrong[likely].mean():.3f}, {wrong[likely].sum() / planted:.3f} | "
            f"{(probabilities.argmax(axis=1) == clean).mean():.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
