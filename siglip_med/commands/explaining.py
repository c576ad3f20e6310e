"""The page of ``predict.py explain=true``: where the model looks in a photograph, and which training cases are near."""

from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from siglip_med.data.dataset import normalize
from siglip_med.data.images import read_image
from siglip_med.errors import UserError
from siglip_med.inference import Classifier, Differential, PredictionRun
from siglip_med.inference.maps import occlusion_map, relevance_map
from siglip_med.inference.neighbours import NEIGHBOURS, Neighbour, Neighbours
from siglip_med.models import PromptEnsemble
from siglip_med.report.page import Figure, Page, Section, Table, write_page
from siglip_med.report.plots.maps import explanation_figure
from siglip_med.report.plots.style import to_png

PAGE = "explanation"
_NEAREST = 5
_LEAD = (
    "Where the model looks for its first answer, and the training cases nearest to it. Not a diagnosis; and a page of "
    "photographs of people, which must not be published."
)
_READING = (
    "Relevance is read from the attentions of the vision tower; occlusion is how far the score falls where a square is "
    "hidden. Both are of the first answer against the mean of all conditions, and each is colored up to its own "
    "largest value. They show what the model uses, not what is ill; where they disagree, believe neither."
)


def explain(
    classifier: Classifier, predictions: PredictionRun, checkpoint: Path, folder: Path, most: int
) -> tuple[Path, tuple[str, ...]]:
    """Writes the page.

    Args:
        classifier: the model that gave the predictions.
        predictions: of the photographs.
        checkpoint: whose run folder is searched for the training cases.
        folder: gets the page.
        most: photographs on it.

    Returns:
        Path of the HTML page, and sentences on what it lacks.

    Raises:
        UserError: the file of training cases is altered or another model's, or a photograph cannot be read.
    """
    notes: list[str] = []
    near: Neighbours | None = None
    home = checkpoint.resolve().parent
    path = (home.parent if home.name == "checkpoints" else home) / NEIGHBOURS
    if path.is_file():
        near = Neighbours.load(path, classifier.model)
    else:
        notes.append(
            f"no training cases: there is no {path}; train.py writes it at the end of a run unless "
            "evaluation.neighbours=0"
        )
    if near is not None and not near.thumbnails:
        notes.append("training cases without pictures: their source does not allow thumbnails (data.source.thumbnails)")
    chosen, left = predictions.differentials[:most], len(predictions.differentials) - most
    if left > 0:
        notes.append(
            f"{left:,} of {len(predictions.differentials):,} photographs are not on the page (explain_most={most})"
        )
    texts = PromptEnsemble(classifier.payload["prompts"], classifier.model.tokenize).encode(classifier.model)
    contrast = texts - texts.mean(dim=0)
    sections = [
        _section(classifier, item, number, contrast, near, notes)
        for number, item in enumerate(track(chosen, description="explaining", transient=True), start=1)
    ]
    unique = tuple(dict.fromkeys(notes))
    reading = Section("reading", "How to read this page", (_READING, *unique))
    page = Page("Where the model looks", _LEAD, {"checkpoint": str(checkpoint)}, (), (reading, *sections))
    return write_page(page, folder, PAGE), unique


def _section(
    classifier: Classifier,
    item: Differential,
    number: int,
    contrast: torch.Tensor,
    near: Neighbours | None,
    notes: list[str],
) -> Section:
    model, best = classifier.model, item.candidates[0]
    photograph = read_image(Path(item.image), model.image_spec.size)
    pixels = normalize(photograph[None], model.image_spec)[0]
    text = contrast[classifier.conditions.index(best.condition)]
    maps: dict[str, np.ndarray] = {}
    try:
        maps["relevance"] = relevance_map(model, pixels, text)
    except UserError as error:
        notes.append(f"no relevance: {error}")
    maps["occlusion"] = occlusion_map(model, pixels, text)
    found: tuple[Neighbour, ...] = ()
    if near is not None:
        with torch.no_grad():
            embedding = model.encode_images(pixels[None].to(model.logit_scale.device))[0]
        found = near.nearest(embedding.float().cpu().numpy(), _NEAREST)
    pictures = [(one.thumbnail, f"{one.cosine:.2f} {', '.join(one.conditions)}") for one in found]
    answer = f"{best.condition} ({best.code}), {best.confidence:.0%}"
    figure = Figure(
        f"{PAGE}_{number:03d}",
        to_png(explanation_figure(photograph, maps, pictures)),
        f"The photograph, with {' and '.join(maps)} for {best.condition}.",
        f"Above: the photograph, {' and '.join(maps)} for {answer}. Below: the nearest training images, where allowed.",
        640,
    )
    rows = tuple((one.case, ", ".join(one.conditions), str(one.row), f"{one.cosine:.3f}") for one in found)
    tables = (Table("Nearest training images", ("case", "labels", "row", "cosine"), rows, 2),) if rows else ()
    title = f"{Path(item.image).name}: {answer}"
    return Section(f"photograph-{number}", title, (item.image,), tables, (figure,))
