"""Several finished runs as one: their predictions joined for a report, their models for new photographs."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np

from siglip_med.core.case_pooling import Average
from siglip_med.core.errors import UserError
from siglip_med.inference.ensemble import Ensemble
from siglip_med.inference.photographs import ChosenScores, Classifier, load
from siglip_med.inference.ranking import PROBABLE
from siglip_med.metrics import Calibration, Predictions, fit_calibration, join_predictions
from siglip_med.models import Device, read_checkpoint
from siglip_med.report.differences import PREDICTIONS
from siglip_med.runs.folder import CHECKPOINTS, run_folder
from siglip_med.runs.stored import NAMES, saved_predictions
from siglip_med.training.checkpointing import BEST


def join_runs(folders: Sequence[Path], average: Average) -> tuple[dict[str, Predictions], tuple[str, ...]]:
    """Predictions of run folders as those of one run, named as in a run folder, and a sentence each on what they are.

    Logits of validation and test are calibrated on each run's validation, averaged, and calibrated again on the
    averaged validation. Baselines are the first run's.

    Raises:
        UserError: fewer than two folders, one twice, one without predictions, or runs that differ in what they rank.
    """
    _check(folders)
    found = {str(folder): _saved(folder) for folder in folders}
    own = [fit_calibration(parts["val"]) for parts in found.values()]
    val, test = (
        join_predictions({name: parts[split] for name, parts in found.items()}, own, average)
        for split in ("val", "test")
    )
    again = fit_calibration(val)
    name, first = next(iter(found.items()))
    notes = (*_told(list(found), average), _confidences(again, len(val)), f"baselines: those of {name}")
    notes += _nothing_new([parts["val"] for parts in found.values()])
    return first | {"val": again.apply(val), "test": again.apply(test)}, notes


def load_ensemble(
    members: Sequence[str | Path],
    base: str | Mapping[str, str] | None = None,
    device: Device = "auto",
    trust: Sequence[str] = (),
    scores: ChosenScores = "auto",
    average: Average = "mean_logit",
) -> Ensemble:
    """Several trained models that answer as one.

    Their confidences are calibrated on the averaged validation predictions where all of these are in the run folders.

    Args:
        members: run folders (their ``best.ckpt``), checkpoints, or merged exports.
        base: where the base of all is now, as in `siglip_med.load`; an export takes none.
        device: where the models run.
        trust: as in `siglip_med.load`.
        scores: whose scores rank, of every member.
        average: how calibrated scores become one: ``mean_logit``, or ``mean_probability`` of each condition.

    Raises:
        UserError: fewer than two members, one twice, members that differ in what they rank, or errors of `load`.
    """
    paths = [Path(member).expanduser() for member in members]
    best = [path / CHECKPOINTS / BEST for path in paths]
    files = [inside if inside.is_file() else path for inside, path in zip(best, paths, strict=True)]
    _check(files)
    models = [load(file, base, device, trust, scores) for file in files]
    for what in ("conditions", "codes"):
        for path, model in zip(paths, models, strict=True):
            theirs, ours = (list(one.payload[what]) for one in (model, models[0]))
            if theirs != ours:
                pair = next(pair for pair in zip_longest(theirs, ours) if pair[0] != pair[1])
                raise UserError(f"ensemble: {path} and {paths[0]}: their {what} differ; the first: {pair}")
    joint, lines = _joint(files, models, average)
    notes = (*_told([str(path) for path in paths], average), *lines)
    return Ensemble(tuple(models), average, joint, notes)


def _joint(
    files: Sequence[Path], models: Sequence[Classifier], average: Average
) -> tuple[Mapping[str, float] | None, tuple[str, ...]]:
    """From averaged logits to confidences, and what to say of it."""
    if any(model.calibration is None for model in models):
        return None, ("confidences: none; a model holds no calibration, so read the scores as an order",)
    found: dict[str, Predictions] = {}
    for file, model in zip(files, models, strict=True):
        saved = None
        if file.is_file() and (model.refit is not None or model.kept is None):  # else they are of the refit
            saved = saved_predictions(run_folder(file), read_checkpoint(file)["siglip_med"])
        if saved is None:
            why = f"{file} has no validation predictions of these scores beside it"
            return PROBABLE, (f"confidences: averaged, and not calibrated again: {why}",)
        found[str(file)] = saved["val"]
    try:
        val = join_predictions(found, [fit_calibration(one) for one in found.values()], average)
    except UserError as error:
        return PROBABLE, (f"confidences: averaged, and not calibrated again ({error})",)
    again = fit_calibration(val)
    lines = (_confidences(again, len(val)), *_nothing_new(list(found.values())))
    return {"temperature": again.temperature, "bias": again.bias}, lines


def _confidences(calibration: Calibration, images: int) -> str:
    return (
        f"confidences: calibrated on the averaged predictions of {images:,} validation images (temperature "
        f"{calibration.temperature:.3f}, bias {calibration.bias:+.3f})"
    )


def _nothing_new(parts: Sequence[Predictions]) -> tuple[str, ...]:
    """Says so where all members give the same answers."""
    first, *others = (part.logits for part in parts)
    if not all(one.shape == first.shape and np.allclose(one, first, atol=1e-4) for one in others):
        return ()
    return (
        "the members answer alike, so their mean is one of them: a refit on a frozen tower does not see what the seeds "
        "trained; average the prompts' scores (scores=prompts, or runs with refit=null), or train adapters",
    )


def _told(names: Sequence[str], average: Average) -> tuple[str, ...]:
    return (f"an ensemble of {len(names)} models, {average} of their calibrated scores: {', '.join(names)}",)


def _check(members: Sequence[Path]) -> None:
    if len(members) < 2:
        raise UserError(f"ensemble needs two runs or more, not {len(members)}: ensemble=[runA,runB]")
    places = [member.resolve() for member in members]
    twice = next((member for member, place in zip(members, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise UserError(f"ensemble: {twice} is given twice; give different runs")


def _saved(folder: Path) -> dict[str, Predictions]:
    present = [name for name in NAMES if (folder / PREDICTIONS / name).is_dir()]
    if not {"val", "test"} <= set(present):
        raise UserError(f"ensemble: {folder} holds no {PREDICTIONS}/val and test; give the folders of finished runs")
    return {name: Predictions.load(folder / PREDICTIONS / name) for name in present}
