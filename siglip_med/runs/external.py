"""A run's model on another clinic's data set: matched, cleared of what the run has seen, judged, written."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siglip_med.conditions import ConditionSet, evaluation_prompts
from siglip_med.conditions.matching import (
    KINDS,
    Match,
    accepted,
    as_conditions,
    match_labels,
    read_matches,
    write_matches,
)
from siglip_med.core.config import Node, instantiate
from siglip_med.core.errors import UserError, one_line
from siglip_med.core.files import whole_folder, write_csv, write_json
from siglip_med.core.provenance import sentence
from siglip_med.data import LabeledData
from siglip_med.data.external import ExternalData, Leaks, find_leaks
from siglip_med.inference import predict_split
from siglip_med.inference.refit import refit_answers
from siglip_med.metrics import (
    REWEIGHTED,
    UNKNOWN,
    Bootstrap,
    Predictions,
    Yardstick,
    adjust_prior,
    compare_external,
    fit_calibration,
    fit_conformal,
    label_some,
    rank_own_labels,
    subgroup_metrics,
    without_unfamiliar,
)
from siglip_med.models import PromptEnsemble, Refit, read_familiarity
from siglip_med.report.external_page import ExternalFindings, build_external_page
from siglip_med.report.page import plain, write_page
from siglip_med.runs.components import Components
from siglip_med.runs.folder import run_folder
from siglip_med.runs.scoring import predict_part, with_familiarity
from siglip_med.runs.stored import OpenedRun, saved_predictions
from siglip_med.training.features import kept_where_frozen

FOLDER = "external"


@dataclass(frozen=True)
class External:
    """What was found on an external set, the model's predictions of it, and the page in its folder."""

    findings: ExternalFindings
    predictions: Predictions
    page: Path


def validate_external(run: OpenedRun, external: Node, bootstrap: Bootstrap, output: Path | None = None) -> External:
    """Validates a run on another data set, and writes ``<run folder>/external/<name>/``, or nothing.

    Args:
        run: its data is read too, to find what it has seen.
        external: node of an `ExternalData`.
        bootstrap: of the intervals.
        output: the folder, in place of that.

    Raises:
        UserError: the set cannot be read, a table of matches or codes is wrong, or nothing can be judged.
    """
    components, folder, trained = run.components, run_folder(run.checkpoint), run.trained
    images, names = _read(external, components), components.conditions.names
    if images.matches is None:
        matches = match_labels(images.conditions, components.conditions, images.codes)
    else:
        matches = read_matches(Path(images.matches), images.conditions, names)
    split = components.data.split
    seen = np.sort(np.concatenate([split.train, split.val]))
    leaks = find_leaks(images.table, components.data.table, seen, images.leak_distance)
    table, counts = images.table, np.asarray(components.data.train_counts)
    yardstick, judged = _yardstick(images, matches, leaks, names, counts)
    images.keep(np.flatnonzero(images.keep_leaks | ~leaks.left_out))
    own, zero_shot = as_conditions(matches, components.conditions), None
    if images.zero_shot:
        zero_shot = _ranked(run, images, own)[0]
    components.model.load_trainable_state(trained)
    found = saved_predictions(folder, run.payload) or {
        part: predict_part(components, part, run.refit) for part in ("val", "test")
    }
    ranked, features = _ranked(run, images, own)
    theirs, features = _judged(components, yardstick, ranked, features, run.refit, judged), features[judged]
    if (known := read_familiarity(run.payload)) is not None:
        images.keep(np.flatnonzero(judged))
        theirs = with_familiarity(replace(components, data=images), "test", theirs, known, run.refit, features)
    theirs = replace(theirs, split=images.title, meta=theirs.meta | {"run": folder.name, "external": images.title})
    ours = yardstick.internal(found["test"])
    rule = fit_conformal(found["val"], temperature=fit_calibration(found["val"]).temperature)
    compared, explained = compare_external(theirs, ours, yardstick.train_share, bootstrap, rule)
    prior = adjust_prior(theirs, found["val"], yardstick.group, bootstrap)
    labelled, too_many = label_some(theirs, prior.calibration, bootstrap)
    listed, cases = table.labels > 0, table.cases
    kinds = np.array([match.kind for match in matches])
    first = kinds[table.frame["primary"].to_numpy()]
    in_training = np.isin(kinds, ("same name", "same code"))
    groups = subgroup_metrics(theirs, ("skin_tone", "sex", "age_group", "site"), REWEIGHTED, bootstrap=bootstrap)
    findings = ExternalFindings(
        name=images.title,
        run=folder.name,
        matches=matches,
        listed=np.array([(column.sum(), len(np.unique(cases[column]))) for column in listed.T]),
        kinds={kind: (int((first == kind).sum()), len(np.unique(cases[first == kind]))) for kind in KINDS},
        leaks=leaks.counts,
        kept=images.keep_leaks,
        judged=_size(theirs),
        internal=_size(ours),
        untested=len(set(yardstick.group[yardstick.known].tolist()) - set(ours.primary.tolist())),
        compared=compared,
        own_labels={
            name: rank_own_labels(one, in_training, bootstrap)
            for name, one in (("tuned", ranked), ("zero-shot", zero_shot))
            if one is not None
        },
        groups=[{str(k): v for k, v in row.items()} for row in groups.to_dict("records") if row["group"] != UNKNOWN],
        explained=explained,
        prior=prior,
        labelled=labelled,
        too_many=too_many,
        notes=[
            *without_unfamiliar(theirs)[1],
            *(f"{item.count:,} {table.unit} left out: {_as_typed(item.reason)}" for item in table.left_out),
            *map(_as_typed, table.notes),
        ],
        notice=sentence(table.provenance),
    )
    place = output or folder / FOLDER / images.title
    seen_images = components.data.table.frame["image"].to_numpy()
    with _replacing(place) as fresh:
        write_matches(fresh / "matches.csv", matches, *findings.listed.T.tolist())
        rows = _leak_rows(table.frame["image"].to_numpy(), cases, seen_images, leaks)
        write_csv(fresh / "leaks.csv", ("image", "case", "seen image", "kind"), rows)
        images.save_bad_images(fresh / "bad_images.csv")
        theirs.save(fresh / "predictions")
        write_json(fresh / "metrics.json", plain(findings))
        write_page(build_external_page(findings), fresh, "index")
    return External(findings, theirs, place / "index.html")


def read_external(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> ``metrics.json`` of what validations of a run on other data sets found; a UserError for a damaged one."""
    found = {}
    for path in sorted((folder / FOLDER).glob("*/metrics.json")):
        try:
            found[path.parent.name] = dict(json.loads(path.read_bytes()))
            _ = found[path.parent.name]["judged"], found[path.parent.name]["compared"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({one_line(error)}); remove it, or validate again") from error
    return found


def _read(node: Node, components: Components) -> ExternalData:
    """The set, decoded as the model reads images; messages name the settings as they are typed."""
    try:
        images: ExternalData = instantiate(node, image=components.model.image_spec)
        images.prepare_data()
        images.setup()
    except UserError as error:
        raise UserError(_as_typed(str(error))) from error
    return images


def _as_typed(text: str) -> str:
    """Settings of ``data`` under the name that they have here."""
    return re.sub(r"(?<![\w./])data\.(?=[a-z])", "external.", text)


def _yardstick(
    images: ExternalData, matches: Sequence[Match], leaks: Leaks, names: Sequence[str], counts: np.ndarray
) -> tuple[Yardstick, np.ndarray]:
    """The yardstick of what can be judged, and which of the images that are kept can."""
    accept, labels = accepted(matches, names), images.table.labels
    known = np.asarray(labels[:, accept.any(axis=1)].any(axis=1))
    kept = images.keep_leaks | ~leaks.left_out
    if not (known & kept).any():
        raise UserError(
            f"{images.table.source}: nothing can be judged: of {len(labels):,} images {int((~known).sum()):,} have no "
            f"label that the model knows and {int((known & leaks.left_out).sum()):,} were seen in training; give codes "
            "of its labels (external.codes=…), or external.keep_leaks=true"
        )
    accept[~(labels[known & kept] > 0).any(axis=0)] = False  # conditions of which no image is left are not compared
    return Yardstick.of(accept, counts), known[kept]


def _ranked(run: OpenedRun, images: ExternalData, own: ConditionSet) -> tuple[Predictions, np.ndarray]:
    """The set's own labels ranked by their prompts, and the pooled features of its images: one pass over them.

    Features of a frozen tower are kept where the run keeps its own.
    """
    model, none_nearer, kept = run.components.model, 1.0 - np.eye(len(own)), run.stored.features
    data: LabeledData = images
    if kept is not None:
        data = kept_where_frozen(images, model, kept["cache_dir"], precision=kept.get("precision", "auto"))
    prompts = [evaluation_prompts(ConditionSet((one,)))[0] for one in own]  # two labels may have the same words
    return predict_split(model, PromptEnsemble(prompts, model.tokenize), data, own, none_nearer, "test")


def _judged(
    components: Components,
    yardstick: Yardstick,
    ranked: Predictions,
    features: np.ndarray,
    refit: Refit | None,
    rows: np.ndarray,
) -> Predictions:
    """The model's conditions in place of the set's labels, for the images of which one can be right."""
    right, primary = yardstick.external(ranked.labels)
    part, conditions = ranked.take(rows), components.conditions
    text = components.prompt_ensemble.encode(components.model)
    with torch.no_grad():
        logits = components.model.logits(torch.from_numpy(part.image_embeddings).to(text.device), text).float()
    frame = replace(
        part,
        logits=logits.cpu().numpy(),
        labels=right[rows],
        primary=primary[rows],
        conditions=conditions.names,
        codes=conditions.codes,
        groups=conditions.groups,
        chapters=conditions.chapters,
        blocks=conditions.blocks,
        dissimilarity=components.dissimilarity,
        train_counts=np.asarray(components.data.train_counts),
        text_embeddings=text.cpu().numpy(),
    )
    return frame if refit is None else refit_answers(refit.cpu(), features[rows], frame)


def _size(predictions: Predictions) -> tuple[int, int]:
    return len(predictions), len(np.unique(predictions.cases))


def _leak_rows(images: np.ndarray, cases: np.ndarray, seen: np.ndarray, leaks: Leaks) -> Iterator[tuple[str, ...]]:
    """A row an image that is left out, or would be: image, case, the image that the run has seen, kind."""
    for row in np.flatnonzero(leaks.left_out):
        same, near = leaks.identical[row], leaks.near[row]
        kind = "byte-identical" if same >= 0 else "near-duplicate" if near >= 0 else "other of its case"
        known = str(seen[same if same >= 0 else near]) if kind != "other of its case" else ""
        yield str(images[row]), str(cases[row]), known, kind


@contextmanager
def _replacing(place: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of an earlier one when it is whole."""
    fresh = place.with_name(f".{place.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)  # of a killed process
    with whole_folder(fresh) as folder:
        yield folder
    if place.exists():
        shutil.rmtree(place)
    fresh.rename(place)
