"""What TensorBoard shows beside the plain scalars: charts that belong together, PR curves, distances, embeddings."""

import io
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from scipy.special import expit

from siglip_med.core.outside import printable
from siglip_med.metrics import Predictions, confusion_matrix, names_by
from siglip_med.report.plots.matrices import confusion_figure, distance_figure
from siglip_med.report.plots.order import chapter_label, chapters_of, icd_order
from siglip_med.report.plots.style import to_png

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_PR_CONDITIONS = 12
_DPI = 110


def custom_scalar_layout() -> dict[str, dict[str, list[str | list[str]]]]:
    """The "Custom Scalars" tab: category -> chart -> ``["Multiline", [regular expressions of tags]]``."""
    charts = {
        "losses": {
            "terms, as they are added": [r"^loss_weighted/.+$"],
            "terms, before their coefficients": [r"^loss_raw/.+$"],
            "total, training and validation": [r"^loss/total$", r"^val/loss$"],
        },
        "coefficients": {"alpha, beta, gamma, delta": [r"^coefficient/.+$"]},
        "retrieval (validation)": _charts("R@K", "macro R@K", "ranking", "classification"),
        "hierarchy (validation)": _charts("ICD distance", "chapter, block and order"),
        "optimization": {
            "gradient and parameter norms": [r"^(grad_norm|parameter_norm)/.+$"],
            "learning rates": [r"^lr.*$"],
            "logit scale and bias": [r"^logit/.+$"],
        },
        "speed": {
            "images a second": [r"^perf/images_per_second$"],
            "shares: waiting for input, of the device's peak": [r"^perf/(input_wait|mfu)$"],
            "peak memory, GB": [r"^perf/peak_memory_gb$"],
        },
    }
    return {category: {chart: ["Multiline", tags] for chart, tags in c.items()} for category, c in charts.items()}


def _charts(*names: str) -> dict[str, list[str]]:
    """Charts of validation metrics -> regular expressions of their tags."""
    return {name: [rf"^val/({'|'.join(names_by('chart')[name])})$"] for name in names}


def write_dashboards(writer: "SummaryWriter", predictions: Predictions, global_step: int = 0) -> None:
    """Writes PR curves, heat maps and the embedding projector's files of one split.

    No photograph is written; a point of the projector is colored by condition, chapter, group or correctness.
    """
    _pr_curves(writer, predictions, global_step)
    _heat_maps(writer, predictions, global_step)
    _projector(writer, predictions, global_step)


def _pr_curves(writer: "SummaryWriter", predictions: Predictions, step: int) -> None:
    """All pairs together, and the most common conditions of the split one by one."""
    confidence, positive, split = expit(predictions.logits), predictions.positive, predictions.split
    writer.add_pr_curve(f"{split}_pr/all conditions", positive.ravel(), confidence.ravel(), step)
    images = positive.sum(axis=0)
    for condition in np.argsort(-images, kind="stable")[:_PR_CONDITIONS]:
        if images[condition]:
            name = predictions.conditions[condition]
            writer.add_pr_curve(printable(f"{split}_pr/{name}"), positive[:, condition], confidence[:, condition], step)


def _heat_maps(writer: "SummaryWriter", predictions: Predictions, step: int) -> None:
    order = icd_order(predictions)
    names, chapters = predictions.conditions, chapters_of(predictions)
    names, chapters = tuple(names[c] for c in order), tuple(chapters[c] for c in order)
    square = np.ix_(order, order)
    matrices = {
        "D, from the codes": predictions.dissimilarity[square],
        "learned, between texts": 1.0 - (predictions.text_embeddings @ predictions.text_embeddings.T)[square],
    }
    _image(writer, "distances/ICD order", distance_figure(matrices, names, chapters), step)
    confusion = confusion_matrix(predictions)[square]
    _image(writer, f"{predictions.split}/confusion", confusion_figure(confusion, names, chapters), step)


def _image(writer: "SummaryWriter", tag: str, figure: Figure, step: int) -> None:
    with Image.open(io.BytesIO(to_png(figure, _DPI))) as image:
        writer.add_image(tag, np.asarray(image.convert("RGB")), step, dataformats="HWC")


def _projector(writer: "SummaryWriter", predictions: Predictions, step: int) -> None:
    """One set of points for the images and one for the texts: the two lie in different cones of the sphere."""
    p, chapters = predictions, [chapter_label(chapter) for chapter in chapters_of(predictions)]
    header = ["condition", "code", "chapter", "group"]
    of_condition = [list(map(printable, row)) for row in zip(p.conditions, p.codes, chapters, p.groups, strict=True)]
    writer.add_embedding(
        p.text_embeddings, of_condition, global_step=step, tag=f"{p.split} texts", metadata_header=header
    )
    if len(p.image_embeddings):
        right = p.positive[np.arange(len(p)), p.logits.argmax(axis=1)]
        of_image = [
            [*of_condition[primary], "right" if hit else "wrong", printable(image)]
            for primary, hit, image in zip(p.primary, right, p.frame["image_id"], strict=True)
        ]
        writer.add_embedding(
            p.image_embeddings,
            of_image,
            global_step=step,
            tag=f"{p.split} images",
            metadata_header=[*header, "first prediction", "image"],
        )
