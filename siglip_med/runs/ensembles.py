"""Several finished runs as one: their predictions joined for a report, their models for new photographs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from siglip_med.core.case_pooling import Average
from siglip_med.core.errors import UserError
from siglip_med.inference.ensemble import Ensemble
from siglip_med.inference.photographs import Averaged, Classifier, load
from siglip_med.inference.ranking import PROBABLE
from siglip_med.metrics import Calibration, Predictions, fit_calibration, join_predictions
from siglip_med.models import Device, read_checkpoint
from siglip_med.report.differences import PREDICTIONS
from siglip_med.report.evidence import BESIDE, PROMPTS, PROMPTS_VAL
from siglip_med.runs.folder import CHECKPOINTS, run_folder
from siglip_med.runs.stored import NAMES, saved_predictions
from siglip_med.training.checkpointing import BEST


def join_runs(
    folders: Sequence[Path], average: Average, scores: Averaged = "auto"
) -> tuple[dict[str, Predictions], tuple[str, ...]]:
    """Predictions of run folders as those of one run, named as in a run folder, and a sentence each on what they are.

    Logits of validation and test are calibrated on each member's validation, averaged, and calibrated again on the
    averaged validation. Baselines are the first run's, but for prompts: those of one member say nothing of all.

    Args:
        folders: of finished runs of one split.
        average: how calibrated scores become one.
        scores: whose they are: the runs' answers, by default.

    Raises:
        UserError: fewer than two members, one twice, a run without predictions, or runs that differ in what they rank.
    """
    _check(folders, scores)
    saved = [_saved(folder) for folder in folders]
    found: dict[str, tuple[Predictions, Predictions]] = {}
    for folder, parts in zip(folders, saved, strict=True):
        refitted = BESIDE[PROMPTS] in parts
        for whose in ("refit", "prompts") if scores == "both" else (scores,):
            val, test = (PROMPTS_VAL, BESIDE[PROMPTS]) if whose == "prompts" and refitted else ("val", "test")
            if val not in parts or (whose == "refit" and not refitted):
                what = f"{PREDICTIONS}/{val}: it is of an earlier version" if refitted else "answers of a refit"
                raise UserError(f"ensemble: {folder} holds no {what}; train it again, or leave scores={scores} out")
            found[f"{folder}{f' ({whose})' if scores == 'both' else ''}"] = parts[val], parts[test]
    own = [fit_calibration(val) for val, _ in found.values()]
    joined = [join_predictions({name: both[n] for name, both in found.items()}, own, average) for n in (0, 1)]
    again = fit_calibration(joined[0])
    notes = (*_told(list(found), average), _confidences(again, len(joined[0])), f"baselines: those of {folders[0]}")
    notes += _nothing_new([val for val, _ in found.values()])
    beside = {name: part for name, part in saved[0].items() if name not in (BESIDE[PROMPTS], PROMPTS_VAL)}
    return beside | {"val": again.apply(joined[0]), "test": again.apply(joined[1])}, notes


def load_ensemble(
    members: Sequence[str | Path],
    base: str | Mapping[str, str] | None = None,
    device: Device = "auto",
    trust: Sequence[str] = (),
    scores: Averaged = "auto",
    average: Average = "mean_logit",
) -> Ensemble:
    """Several trained models that answer as one.

    Their confidences are calibrated on the averaged validation predictions where all of these are in the run folders.

    Args:
        members: run folders (their ``best.ckpt``), checkpoints, or merged exports.
        base: where the base of all is now, as in `siglip_med.load`; an export takes none.
        device: where the models run.
        trust: as in `siglip_med.load`.
        scores: whose scores rank, of every model; ``both``: its refit's and its prompts', as two members.
        average: how calibrated scores become one: ``mean_logit``, or ``mean_probability`` of each condition.

    Raises:
        UserError: fewer than two members, one twice, members that differ in what they rank, or errors of `load`.
    """
    paths = [Path(member).expanduser() for member in members]
    best = [path / CHECKPOINTS / BEST for path in paths]
    files = [inside if inside.is_file() else path for inside, path in zip(best, paths, strict=True)]
    _check(files, scores)
    models = [load(file, base, device, trust, "refit" if scores == "both" else scores) for file in files]
    if scores == "both":
        paths, files = ([one for one in of for _ in range(2)] for of in (paths, files))
        models = [one for model in models for one in (model, replace(model, refit=None))]
    for what in ("conditions", "codes"):
        for path, model in zip(paths, models, strict=True):
            theirs, ours = (list(one.payload[what]) for one in (model, models[0]))
            if theirs != ours:
                pair = next(pair for pair in zip_longest(theirs, ours) if pair[0] != pair[1])
                raise UserError(f"ensemble: {path} and {paths[0]}: their {what} differ; the first: {pair}")
    joint, lines = _joint(files, models, average)
    names = [
        f"{path}{f' ({model.whose})' if scores == 'both' else ''}" for path, model in zip(paths, models, strict=True)
    ]
    notes = (*_told(names, average), *lines)
    return Ensemble(tuple(models), average, joint, notes)


def _joint(
    files: Sequence[Path], models: Sequence[Classifier], average: Average
) -> tuple[Mapping[str, float] | None, tuple[str, ...]]:
    """From averaged logits to confidences, and what to say of it."""
    if any(model.calibration is None for model in models):
        return None, ("confidences: none; a model holds no calibration, so read the scores as an order",)
    found: dict[str, Predictions] = {}
    for file, model in zip(files, models, strict=True):
        part = "val" if model.refit is not None or model.kept is None else PROMPTS_VAL
        saved = saved_predictions(run_folder(file), read_checkpoint(file)["siglip_med"]) if file.is_file() else None
        if saved is None or part not in saved:
            why = f"{file} has no validation predictions of these scores beside it"
            return PROBABLE, (f"confidences: averaged, and not calibrated again: {why}",)
        found[f"{file} {part}"] = saved[part]
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


def _check(members: Sequence[Path], scores: Averaged) -> None:
    if len(members) < (1 if scores == "both" else 2):
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
