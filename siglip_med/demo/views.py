"""What the page shows, as HTML: every text is escaped, every picture is inside it, and nothing is fetched."""

import base64
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps
from PIL import Image

from siglip_med.core.image_spec import ImageSpec
from siglip_med.core.outside import finalize, printable
from siglip_med.core.provenance import Provenance, sentence
from siglip_med.demo.answers import Answer, Answerer, PredictionSet, SentenceScore
from siglip_med.demo.limits import Limits
from siglip_med.demo.photograph import SHOWN_SIDE, Photograph

WARNING = "Not a diagnostic device."
_STRONGEST = 0.78
"""Opacity of the overlay where a map is highest."""
_COLORS = "viridis"


def style() -> str:
    """The page's own CSS."""
    return (Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")


def banner(answerer: Answerer) -> str:
    """What stays in sight wherever the page is scrolled to."""
    return _render("banner", warning=WARNING, provenance=_provenance(answerer))


def heading(answerer: Answerer, limits: Limits) -> str:
    """Which model this is, and what happens to a photograph that is dropped here."""
    payload = answerer.classifier.payload
    made = sentence(_provenance(answerer))
    source = Path(answerer.source).name
    names = answerer.icd.conditions
    conditions = sorted(zip(names.names, names.codes, strict=True))
    return _render(
        "heading", source=source, answerer=answerer, payload=payload, limits=limits, made=made, conditions=conditions
    )


def _provenance(answerer: Answerer) -> Provenance | None:
    return Provenance.read(answerer.classifier.payload.get("provenance"), answerer.source)


def messages(lines: Sequence[str]) -> str:
    """What could not be done, a line each; nothing for none."""
    return _render("messages", lines=lines) if lines else ""


def photograph(shown: Photograph, spec: ImageSpec, overlay: np.ndarray | None = None, caption: str = "") -> str:
    """The photograph in its own shape, with a map ``[h, w]`` over it: what is highest is drawn strongest."""
    return _render(
        "photograph",
        photograph=shown,
        side=spec.size,
        picture=_data_uri(Image.fromarray(shown.shown), "JPEG"),
        overlay=None if overlay is None else _data_uri(_colored(overlay), "PNG"),
        caption=caption,
        gradient=_gradient(),
    )


def caption(condition: str, covering: bool, highest: float) -> str:
    """What a map shows, and what it does not."""
    if highest <= 0:
        what = "Covering no place lowers" if covering else "No place raises"
        return f"{what} the score of {condition} against the mean of all conditions: there is nothing to draw."
    against = "against the mean of all conditions"
    if covering:
        return f"Where covering the photograph lowers the score of {condition} most, {against}: what the score needs."
    return (
        f"Where the score of {condition} comes from, {against}. A map says where the model looks, not that it is right."
    )


def differential(answerer: Answerer, answer: Answer) -> str:
    """The best conditions with code, title and confidence."""
    rows = []
    for rank, column in enumerate(answerer.differential(answer), start=1):
        place = answerer.icd.conditions.conditions[column]
        rows.append((answer.candidates[rank - 1], place, answerer.icd.leaf(column, rank, answer.first)))
    shown = _render(
        "differential", rows=rows, calibrated=answerer.classifier.calibration is not None, total=len(answer.logits)
    )
    return _opened(shown, answer.unfamiliar)


def case(answerer: Answerer, answers: Sequence[Answer]) -> str:
    """One answer for several photographs, if they show one case; nothing for a single one."""
    if len(answers) < 2:
        return ""
    found = answerer.case(answers)
    left_out = sum(bool(one.unfamiliar) for one in answers) if not found.unfamiliar else 0
    shown = _render("case", found=found, photographs=len(answers), left_out=left_out)
    return _opened(shown, found.unfamiliar)


def _opened(html: str, unfamiliar: str) -> str:
    """The part as it is, or for an unfamiliar photograph a notice in its place that opens it."""
    return _render("unfamiliar", html=Markup(html), why=unfamiliar) if unfamiliar else html


def prediction_set(answerer: Answerer, answer: Answer, found: PredictionSet | None) -> str:
    """The conformal set, or why there is none."""
    names = answerer.icd.conditions
    members = [] if found is None else [(names.names[column], names.codes[column]) for column in found.columns]
    return _render("set", found=found, members=members, total=len(answer.logits), unfamiliar=answer.unfamiliar)


def tree(answerer: Answerer, answer: Answer) -> str:
    """Where the best conditions stand in ICD-10-CM."""
    return _opened(_render("tree", branches=answerer.icd.tree(answerer.differential(answer))), answer.unfamiliar)


def neighbours(answerer: Answerer, answer: Answer) -> str:
    """The nearest training images with their labels, as pictures where the data allows it; or why there are none."""
    found, training = answerer.nearest(answer), answerer.training
    rows = [(one, None if one.thumbnail is None else _uri(one.thumbnail, "jpeg")) for one in found or ()]
    kept, shown = (0, False) if training is None else (len(training), bool(training.thumbnails))
    return _render("neighbours", found=found, rows=rows, kept=kept, shown=shown)


def sentences(scores: Sequence[SentenceScore], answerer: Answerer, answer: Answer) -> str:
    """Typed sentences beside the best conditions."""
    best = answer.prompts[: answerer.top_k]
    lines: list[tuple[float, float, str, SentenceScore | None]] = [
        (candidate.logit, candidate.confidence, candidate.condition, None) for candidate in best
    ]
    lines += [(score.logit, score.confidence, score.text, score) for score in scores]
    lines.sort(key=lambda line: -line[0])
    refit = answerer.classifier.refit is not None
    return _opened(_render("sentences", lines=lines, total=len(answer.logits), refit=refit), answer.unfamiliar)


def _render(name: str, **values: object) -> str:
    return _templates().get_template(f"{name}.html.jinja").render(**values)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("siglip_med.demo"),
        autoescape=True,
        finalize=finalize(printable),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["confidence"] = _confidence
    return environment


def _confidence(value: float) -> str:
    """A share in percent, without calling anything certain or impossible."""
    if value < 0.001:
        return "< 0.1%"
    return "> 99.9%" if value > 0.999 else f"{value:.1%}"


def _colored(values: np.ndarray) -> Image.Image:
    """A map as a picture that is clear where the map is low: ``[h, w]`` to RGBA at the photograph's side."""
    positive = np.clip(values.astype(np.float64), 0.0, None)
    highest = positive.max()
    share = positive / highest if highest > 0 else positive
    small = Image.fromarray(share.astype(np.float32))
    smooth = np.clip(np.asarray(small.resize((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BILINEAR)), 0.0, 1.0)
    rgba = colormaps[_COLORS](smooth)
    rgba[..., 3] = _STRONGEST * smooth
    return Image.fromarray((rgba * 255).round().astype(np.uint8), "RGBA")


def _gradient() -> str:
    """The map's colors as a CSS gradient, for its legend."""
    steps = [colormaps[_COLORS](share)[:3] for share in np.linspace(0, 1, 6)]
    colors = (f"rgba({r * 255:.0f}, {g * 255:.0f}, {b * 255:.0f}, {i / 5:.1f})" for i, (r, g, b) in enumerate(steps))
    return f"linear-gradient(to right, {', '.join(colors)})"


def _data_uri(picture: Image.Image, form: str) -> str:
    file = io.BytesIO()
    picture.save(file, form, **({"quality": 90} if form == "JPEG" else {}))
    return _uri(file.getvalue(), form.lower())


def _uri(content: bytes, form: str) -> str:
    return f"data:image/{form};base64,{base64.b64encode(content).decode()}"
