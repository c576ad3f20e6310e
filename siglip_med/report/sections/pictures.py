"""The embedding map, the curves of the run, and photographs for those who asked for them."""

from pathlib import Path

import numpy as np

from siglip_med.core.errors import UserError
from siglip_med.report.evidence import Evidence
from siglip_med.report.inputs import ReportInputs
from siglip_med.report.page import Figure, Section
from siglip_med.report.plots.curves import curve_panels, curves_figure
from siglip_med.report.plots.embedding import MAP_MINIMUM, embedding_figure, project
from siglip_med.report.plots.order import chapters_of
from siglip_med.report.plots.photographs import contact_sheet
from siglip_med.report.plots.style import to_png
from siglip_med.report.sections.explanations import surest

NOT_TO_PUBLISH = "People's skin: this page was asked to show photographs and must not be published."


def embedding_section(evidence: Evidence) -> Section:
    """A map of the test images, colored by the chapter of the primary label."""
    test, limit = evidence.test, evidence.settings.map_images
    title = "A map of the images"
    if len(test.image_embeddings) < MAP_MINIMUM:
        return Section("embedding", title, ("There are too few image embeddings in these predictions for a map.",))
    rng = np.random.default_rng(evidence.settings.seed)
    rows = np.sort(rng.permutation(len(test))[:limit])
    points = project(test.image_embeddings[rows], evidence.settings.seed)
    figure = embedding_figure(points, test.primary[rows], test.conditions, chapters_of(test))
    sampled = f" ({len(rows):,} of {len(test):,}, drawn at random)" if len(rows) < len(test) else ""
    return Section(
        key="embedding",
        title=title,
        paragraphs=(
            f"t-SNE of the image embeddings{sampled}: neighbors on the map are neighbors for the model; distances "
            "between far-off islands mean nothing.",
        ),
        figures=(
            Figure(
                "embedding",
                to_png(figure),
                "t-SNE map of the test images, colored by ICD chapter.",
                "Color and marker: chapter of the primary label. Names: median of the images of the most "
                "common conditions.",
                640,
            ),
        ),
        data={"method": "t-SNE", "images": len(rows)},
    )


def curves_section(inputs: ReportInputs) -> Section:
    """Loss terms, coefficients and validation metrics by step."""
    title = "How the run went"
    if not curve_panels(inputs.curves):
        return Section(
            "curves", title, ("The run folder holds no logged curves; train with logger=tensorboard or logger=csv.",)
        )
    last = inputs.curves.sort_values("step").groupby("tag")["value"].last()
    return Section(
        key="curves",
        title=title,
        paragraphs=(
            "Terms are shown raw and as they enter the sum: a term whose raw value falls while its weighted "
            "value is near 0 was learnt through the others. Dense curves are drawn thin, with a running median "
            "on top.",
        ),
        figures=(
            Figure(
                "curves",
                to_png(curves_figure(inputs.curves)),
                "Loss terms, coefficients and validation metrics by optimizer step.",
                "All terms of the loss on one axis, coefficients together, retrieval together.",
                640,
            ),
        ),
        data={"last_values": last.to_dict(), "steps": int(inputs.curves["step"].max())},
    )


def photographs_section(evidence: Evidence, inputs: ReportInputs) -> Section:
    """Thumbnails of the surest mistakes and the surest right answers; a UserError without their folder."""
    test, root = evidence.test, inputs.image_root
    if root is None:
        raise UserError("report.images=true needs the folder of the photographs: give report.image_root=…")
    figures = []
    for name, right, caption in (
        ("surest_mistakes", False, "Surest mistakes: the answer, then the primary label."),
        ("surest_hits", True, "Surest right answers."),
    ):
        lines = [
            (
                str(test.frame["image"].iloc[row]),
                f"{sure:.0%} {test.conditions[answer]}",
                f"label: {test.conditions[test.primary[row]]}",
            )
            for row, answer, sure in surest(test, right)
        ]
        figures += sheet(root, name, lines, caption, inputs.image_bits)
    return Section(
        key="photographs",
        title="Photographs",
        paragraphs=(NOT_TO_PUBLISH,),
        figures=tuple(figures),
    )


def sheet(root: Path, name: str, lines: list[tuple[str, str, str]], caption: str, bits: int) -> list[Figure]:
    """The contact sheet of some photographs; nothing for none. ``bits``: in use of those with 16 per channel."""
    return [Figure(name, to_png(contact_sheet(root, lines, bits), 110), caption, caption, 640)] if lines else []
