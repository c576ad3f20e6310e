"""Is the mean of several training seeds better than one of them, and the mean over views of a photograph than one view?

    python benchmarks/ensembles.py seeds logs/…/split0_seed0 logs/…/split0_seed1 …    # finished runs of any splits
    python benchmarks/ensembles.py views logs/…/split0_seed0 logs/…/split1_seed0 …    # finished runs, one a split

Runs of one split are an ensemble (a second seed of a split: ``seed=1 data.split_file=logs/…/split0_seed0/split.csv``),
held against the mean of its members; by the run's answer (a refit, where there is one) and by the prompts. Test split;
differences are paired by split, with intervals corrected for overlapping splits (Nadeau & Bengio 2003). ``views``
reads the test photographs again, takes their features, and averages logits or features.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.tables import corrected_interval
from siglip_med.core.case_pooling import Average
from siglip_med.data.splitting.report import SplitReport
from siglip_med.inference import Classifier, load
from siglip_med.inference.files import batches
from siglip_med.inference.ranking import Ranker
from siglip_med.inference.views import views
from siglip_med.metrics import Calibration, Predictions, fit_calibration, headline_metrics, join_predictions
from siglip_med.models import read_checkpoint
from siglip_med.runs.ensembles import load_ensemble
from siglip_med.runs.scoring import predict_part
from siglip_med.runs.stored import OpenedRun, image_root, open_run

METRICS = ("r_at_1", "r_at_5", "mrr", "macro_r_at_1", "icd_distance_top5", "ece")
AVERAGES: tuple[Average, ...] = ("mean_logit", "mean_probability")
PARTS = ("val", "test")
COUNTS = (2, 4)
TIMED = 64
Row = Mapping[str, float]


def values(predictions: Predictions) -> Row:
    """Metric -> value."""
    found = headline_metrics(predictions)
    return {name: found[name] for name in METRICS}


def mean(rows: Sequence[Row]) -> Row:
    """Metric by metric."""
    return {name: float(np.mean([row[name] for row in rows])) for name in METRICS}


def told(
    pairs: Mapping[str, list[tuple[Row, Row]]], sizes: Sequence[tuple[int, int]], metrics: Sequence[str] = METRICS
) -> None:
    """Prints each comparison: a metric of the single ones, of what is asked about, and the difference with interval."""
    train, test = np.mean(sizes, axis=0)
    print(f"{len(sizes)} splits, {train:.0f} training and {test:.0f} test images")
    for name, found in pairs.items():
        for metric in metrics:
            one, other = (np.array([pair[side][metric] for pair in found]) for side in (0, 1))
            middle, low, high = corrected_interval(list(other - one), train, test)
            print(
                f"{name:52s} {metric:18s} {one.mean():.4f} {other.mean():.4f} {middle:+.4f} [{low:+.4f}, {high:+.4f}]"
            )


def best(folder: Path) -> Path:
    """A run's checkpoint."""
    return folder / "checkpoints" / "best.ckpt"


def size(folder: Path) -> tuple[int, int]:
    """Training and test images of a run."""
    report = SplitReport.load(folder / "split_report.json")
    assert report is not None
    return report.images["train"], report.images["test"]


def seeds(folders: Sequence[Path], cache: str) -> None:
    """Ensembles of the runs of each split: by their answers, by their prompts, and by the mean of their weights."""
    splits: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        splits[read_checkpoint(best(folder))["siglip_med"]["split_hash"]].append(folder)
    test, val = (defaultdict[str, list[tuple[Row, Row]]](list) for _ in range(2))
    for members in splits.values():
        names = [folder.name for folder in members]
        print(f"ensemble: {', '.join(names)}", flush=True)
        runs = [open_run(best(folder), cache, device="cpu") for folder in members]
        answers = [[Predictions.load(folder / "predictions" / part) for part in PARTS] for folder in members]
        prompts = [predicted(run, run.trained) for run in runs]
        both = [[*one, *other] for one, other in zip(answers, prompts, strict=True)]
        for whose, base, parts in (
            ("answer", answers, answers),
            ("both", answers, both),
            ("prompts", prompts, prompts),
        ):
            single = [mean([values(together([one])[n]) for one in base]) for n in (0, 1)]
            for average in AVERAGES:
                whole, each = together(parts, average), [together([one], average) for one in both]
                for n, table in enumerate((val, test)):
                    if whose == "both":
                        row = mean([values(one[n]) for one in each])
                        table[f"answer and prompts of a run: {average}"].append((single[n], row))
                    table[f"{whose} of {len(names)} runs: {average}"].append((single[n], values(whole[n])))
        state = {name: torch.stack([run.trained[name] for run in runs]).mean(0) for name in runs[0].trained}
        row = values(together([predicted(runs[0], state)])[1])
        test[f"prompts by the mean of {len(names)} weights"].append((single[1], row))  # of the prompts
    sizes = [size(members[0]) for members in splits.values()]
    print("validation, by which an average is chosen")
    told(val, sizes, ("mrr",))
    print("test")
    told(test, sizes)
    members = next(iter(splits.values()))
    price("one model", load(best(members[0]), device="cpu"), members[0], cache)
    price(f"{len(members)} models", load_ensemble(members, device="cpu"), members[0], cache)
    price("one model, both scores", load_ensemble(members[:1], device="cpu", scores="both"), members[0], cache)


def together(
    parts: Sequence[Sequence[Predictions]], average: Average = "mean_logit"
) -> tuple[Predictions, Predictions]:
    """Validation and test of models as one, calibrated; of each both are given, or several such pairs in a row."""
    of_val, of_test = ([one for each in parts for one in each[n::2]] for n in (0, 1))
    own = [fit_calibration(one) for one in of_val]
    joined = [join_predictions({str(n): one for n, one in enumerate(of)}, own, average) for of in (of_val, of_test)]
    again = fit_calibration(joined[0])
    return again.apply(joined[0]), again.apply(joined[1])


def predicted(run: OpenedRun, state: Mapping[str, torch.Tensor]) -> list[Predictions]:
    """Validation and test by the prompts of some trained weights."""
    run.components.model.load_trainable_state(state)
    return [predict_part(run.components, part) for part in PARTS]


@torch.no_grad()
def features(model: Classifier, files: Sequence[Path], count: int, kept: dict[Path, np.ndarray]) -> np.ndarray:
    """``[N, count, F]`` of the views of files, in their order; what is in ``kept`` is not computed again."""
    missing = [file for file in files if file not in kept]
    bad: list[tuple[str, str]] = []
    for paths, pixels, _ in batches(missing, model.model.image_spec, 32, bad, "views"):
        found = torch.stack([model.model.pooled_features(view) for view in views(pixels, count)], dim=1).numpy()
        kept |= dict(zip(paths, found, strict=True))
    if bad:
        raise SystemExit(f"{len(bad)} photographs cannot be read: {bad[0][1]}")
    return np.stack([kept[file] for file in files])


def logits(model: Classifier, of: torch.Tensor) -> np.ndarray:
    """``[N, C]`` of ``[N, F]`` features."""
    return np.concatenate([model.logits(block).numpy() for block in of.split(256)])


@torch.no_grad()
def of_views(folders: Sequence[Path], cache: str) -> None:
    """Test photographs by their views."""
    pairs, sizes = defaultdict[str, list[tuple[Row, Row]]](list), []
    kept: dict[Path, np.ndarray] = {}
    models: dict[str, Classifier] = {}
    for folder in folders:
        test = Predictions.load(folder / "predictions" / "test")
        root = image_root(best(folder), cache)
        files = [root / image for image in test.frame["image"]]
        sizes.append(size(folder))
        for whose in ("refit", "prompts"):
            model = models[whose] = load(best(folder), device="cpu", scores=whose)  # type: ignore[arg-type]
            if not model.model.vision_is_frozen:
                kept = {}
            calibration = Calibration(**model.calibration) if model.calibration else Calibration(1.0, 0.0)
            every = torch.from_numpy(features(model, files, max(COUNTS), kept))

            each = [logits(model, every[:, place]) for place in range(max(COUNTS))]
            one = values(calibration.apply(test.with_logits(each[0])))
            for count in COUNTS:
                by = {"logits": np.mean(each[:count], axis=0), "features": logits(model, every[:, :count].mean(dim=1))}
                for what, found in by.items():
                    row = values(calibration.apply(test.with_logits(found)))
                    pairs[f"{whose}: {what} of {count} views"].append((one, row))
            print(folder.name, whose, flush=True)
    told(pairs, sizes)
    price("one model", models["refit"], folders[0], cache, (1, *COUNTS))


def price(what: str, model: Ranker, folder: Path, cache: str, counts: Sequence[int] = (1,)) -> None:
    """Seconds a photograph by the number of views, everything included but the loading of models: median, range."""
    root = image_root(best(folder), cache)
    files = [root / image for image in Predictions.load(folder / "predictions" / "test").frame["image"][:TIMED]]
    for count in counts:
        spent = []
        for _ in range(5):
            start = time.monotonic()
            model.scores(files, 16, count)
            spent.append((time.monotonic() - start) / len(files))
        middle, low, high = np.median(spent), min(spent), max(spent)
        print(f"{what}, {count} views: {middle:.3f} s a photograph [{low:.3f}, {high:.3f}]", flush=True)


def main() -> None:
    """The command line."""
    what, *given = sys.argv[1:] or ["-h"]
    cache = next((word.removeprefix("cache=") for word in given if word.startswith("cache=")), ".cache")
    folders = [Path(word) for word in given if not word.startswith("cache=")]
    if what not in ("seeds", "views") or not folders:
        print(__doc__)
        return
    (seeds if what == "seeds" else of_views)(folders, cache)


if __name__ == "__main__":
    main()
