"""Where a model looks in a photograph, and which training cases are near: for a prediction's page, and a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from siglip_med.core.errors import UserError
from siglip_med.core.progress import tracked
from siglip_med.data.dataset import normalize
from siglip_med.data.images import read_image
from siglip_med.inference import Classifier, Differential, PredictionRun, load
from siglip_med.inference.maps import Target, occlusion_map
from siglip_med.inference.neighbours import Neighbours, beside
from siglip_med.inference.shifted_maps import shifted_relevance_map
from siglip_med.metrics import Predictions
from siglip_med.models import Device, choose_device
from siglip_med.report.inputs import Explanation
from siglip_med.report.page import Page, Section, write_page
from siglip_med.report.sections.explanations import READING, explanation_parts, surest

PAGE = "explanation"
_NEAREST = 5
_LEAD = (
    "Where the model looks for its first answer, and the training cases nearest to it. Not a diagnosis; and a page of "
    "photographs of people, which must not be published."
)


def explain(
    classifier: Classifier, predictions: PredictionRun, checkpoint: Path, folder: Path, most: int
) -> tuple[Path, tuple[str, ...]]:
    """Writes the page: ``most`` photographs, with training cases from the checkpoint's run folder; says what it lacks.

    Raises:
        UserError: the file of training cases is altered, or a photograph cannot be read.
    """
    near, lacking = beside(checkpoint, classifier.model)
    notes = [lacking] if lacking else []
    answered = [item for item in predictions.differentials if item.candidates]
    if blank := len(predictions.differentials) - len(answered):
        notes.append(f"{blank:,} photographs are not on the page: there is nothing in them")
    chosen, left = answered[:most], len(answered) - most
    if left > 0:
        notes.append(f"{left:,} of {len(answered):,} photographs are not on the page (explain_most={most})")
    sections = [
        _section(classifier, item, number, near, notes)
        for number, item in enumerate(tracked(chosen, "explaining", "photographs"), start=1)
    ]
    unique = tuple(dict.fromkeys(notes))
    reading = Section("reading", "How to read this page", (READING, *unique))
    page = Page("Where the model looks", _LEAD, {"checkpoint": str(checkpoint)}, (), (reading, *sections))
    return write_page(page, folder, PAGE), unique


def explain_mistakes(
    checkpoint: Path,
    base: str | Mapping[str, str] | None,
    device: Device,
    test: Predictions,
    root: Path,
    trust: Sequence[str] = (),
) -> tuple[tuple[Explanation, ...], tuple[str, ...]]:
    """Explanations of a report's surest mistakes, and what they lack; ``base`` and ``trust`` as in `load_model`.

    Raises:
        UserError: the device is not available, the file of training cases is altered, or a photograph cannot be read.
    """
    choose_device(device)
    try:
        classifier = load(checkpoint, base, device, trust)
    except UserError as error:  # the numbers of the report need no model
        return (), (f"no maps of the mistakes: the model cannot be built ({error})",)
    near, lacking = beside(checkpoint, classifier.model)
    notes = [lacking] if lacking else []
    found = []
    for row, answer, _ in tracked(surest(test, right=False), "explaining the mistakes", "mistakes"):
        label = int(test.primary[row])
        texts = {"": classifier.target(answer), f", {test.conditions[label]}": classifier.target(label)}
        path = root / test.frame["image"].iloc[row]
        if not path.is_file():
            raise UserError(f"{path}: the photograph is not there; give its folder as report.image_root=…")
        found.append(_explanation(classifier, path, row, texts, near, notes))
    return tuple(found), tuple(dict.fromkeys(notes))


def _section(
    classifier: Classifier, item: Differential, number: int, near: Neighbours | None, notes: list[str]
) -> Section:
    best, path = item.candidates[0], Path(item.image)
    target = classifier.target(classifier.conditions.index(best.condition))
    found = _explanation(classifier, path, number, {"": target}, near, notes)
    sure = f"unfamiliar: {item.unfamiliar}" if item.unfamiliar else f"{best.confidence:.0%}"
    answer = f"{best.condition} ({best.code}), {sure}"
    figure, tables = explanation_parts(found, f"{PAGE}_{number:03d}", answer)
    return Section(f"photograph-{number}", f"{path.name}: {answer}", (item.image,), tables, (figure,))


def _explanation(
    classifier: Classifier, path: Path, row: int, texts: Mapping[str, Target], near: Neighbours | None, notes: list[str]
) -> Explanation:
    """Both maps for the first text, relevance alone for others; what cannot be had is appended to the notes."""
    model = classifier.model
    photograph = read_image(path, model.image_spec.size, bits=model.image_spec.bits)
    pixels = normalize(photograph[None], model.image_spec)[0]
    maps = {}
    for number, (ending, text) in enumerate(texts.items()):
        try:
            maps[f"relevance{ending}"] = shifted_relevance_map(model, pixels, text)
        except UserError as error:
            notes.append(f"no relevance: {error}")
        if number == 0:
            maps[f"occlusion{ending}"] = occlusion_map(model, pixels, text)
    if near is None:
        return Explanation(row, photograph, maps)
    with torch.no_grad():
        embedding = model.embed_images(pixels[None].to(model.logit_scale.device))[0]
    found = near.nearest(embedding.cpu().numpy(), _NEAREST)
    return Explanation(row, photograph, maps, found)
