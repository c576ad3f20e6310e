"""The page itself: which part asks what, and where the answer goes.

Nothing here is global: the model is closed over, and what belongs to a visitor lies in the `Sessions` under the tab's
own name. Every picture is part of the HTML, so that Gradio writes no file of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from siglip_med.core.errors import UserError
from siglip_med.demo import views
from siglip_med.demo.answers import Answer, Answerer
from siglip_med.demo.guard import VISITOR
from siglip_med.demo.limits import Limits
from siglip_med.demo.sessions import Sessions
from siglip_med.demo.uploads import take

TITLE = "siglip-med"
_FORGOTTEN = "The photograph is forgotten: drop it again."
_MAPS = ("attention: what it carries into the score", "covering: what the score loses without each place")
_PLACEHOLDER = "scaly plaques on the elbow\na mole with an irregular border"


@dataclass(frozen=True)
class Visit:
    """What is remembered of a tab: the photographs that were read, and which of them is shown."""

    answers: tuple[Answer, ...]
    shown: int = 0

    @property
    def answer(self) -> Answer:
        """Of the photograph that is shown."""
        return self.answers[self.shown]


def theme() -> gr.Theme:
    """System fonts alone: none is fetched."""
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
    return gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=("ui-monospace", "Consolas", "monospace")
    )


def build_page(answerer: Answerer, visits: Sessions[Visit], limits: Limits, coverage: float) -> gr.Blocks:
    """Lays the page out and wires it; ``coverage`` is what the slider starts with."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(views.banner(answerer), elem_id="sm-banner")
        gr.HTML(views.heading(answerer, limits))
        with gr.Row():
            with gr.Column(scale=5, min_width=340, elem_id="sm-left"):
                upload = gr.File(
                    label=f"Photographs: up to {limits.files}, {limits.megabytes:g} MB each",
                    file_count="multiple",
                    height=140,
                    elem_id="sm-upload",
                )
                message = gr.HTML(elem_id="sm-message")
                choice = gr.Radio(label="Photograph", visible=False, elem_id="sm-choice")
                with gr.Group(visible=False) as looking:
                    condition = gr.Dropdown(label="Where does the model look for …", elem_id="sm-condition")
                    drawn_by = gr.Radio(list(_MAPS), value=_MAPS[0], label="The map is made by", elem_id="sm-map")
                photograph = gr.HTML(elem_id="sm-photograph")
                forget = gr.Button("Forget", size="sm", visible=False, elem_id="sm-forget")
            with gr.Column(scale=6, min_width=380, visible=False, elem_id="sm-results") as results:
                differential = gr.HTML(elem_id="sm-differential")
                together = gr.HTML(elem_id="sm-case")
                gr.HTML('<div class="sm-section"><h2>How long must the list be?</h2></div>')
                slider = gr.Slider(
                    0.5, 0.99, value=coverage, step=0.01, label="Stated coverage", elem_id="sm-coverage",
                    visible=answerer.validation is not None,
                )  # fmt: skip
                members = gr.HTML(elem_id="sm-set")
                tree = gr.HTML(elem_id="sm-tree")
                near = gr.HTML(elem_id="sm-near")
                gr.HTML('<div class="sm-section"><h2>In your own words</h2></div>')
                words = gr.Textbox(
                    label=f"Sentences, one a line, up to {limits.prompts}",
                    placeholder=_PLACEHOLDER,
                    lines=2,
                    max_lines=limits.prompts,
                    elem_id="sm-words",
                )
                score = gr.Button("Score them", size="sm", elem_id="sm-score")
                scores = gr.HTML(elem_id="sm-scores")

        outputs: list[Any] = [
            message, choice, photograph, looking, condition, forget, results, differential, together, members, tree,
            near, scores,
        ]  # fmt: skip

        def shown(visit: Visit, stated: float, lines: Sequence[str] = ()) -> list[Any]:
            answer, names = visit.answer, [item.photograph.name for item in visit.answers]
            numbered = [(f"{number}. {name}", number) for number, name in enumerate(names, start=1)]
            spec = answerer.classifier.model.image_spec
            return [
                views.messages(lines),
                gr.update(choices=numbered, value=visit.shown + 1, visible=len(names) > 1),
                views.photograph(answer.photograph, spec),
                gr.update(visible=True),
                gr.update(choices=places(answer), value=None),
                gr.update(visible=True),
                gr.update(visible=True),
                views.differential(answerer, answer),
                views.case(answerer, visit.answers),
                views.prediction_set(answerer, answer, answerer.prediction_set(answer, stated)),
                views.tree(answerer, answer),
                views.neighbours(answerer, answer),
                "",
            ]

        def nothing(lines: Sequence[str] = ()) -> list[Any]:
            hidden, empty = gr.update(visible=False), gr.update(choices=[], value=None)
            none = gr.update(choices=[], value=None, visible=False)
            return [views.messages(lines), none, "", hidden, empty, hidden, hidden, "", "", "", "", "", ""]

        def drop(paths: list[str] | None, stated: float, request: gr.Request) -> list[Any]:
            answers, wrong = read_all(answerer, limits, list(dict.fromkeys(map(Path, paths or ()))))
            if not answers:
                visits.forget(tab_of(request))
                return [None, *nothing(wrong)]
            visit = Visit(tuple(answers))
            visits.put(tab_of(request), visit)
            return [None, *shown(visit, stated, wrong)]

        def choose(number: int, stated: float, request: gr.Request) -> list[Any]:
            visit = visits.get(tab_of(request))
            if visit is None:
                return nothing([_FORGOTTEN])
            visit = Visit(visit.answers, number - 1)  # a choice of 0 would count as none in the browser
            visits.put(tab_of(request), visit)
            return shown(visit, stated)

        def look(rank: int | None, made_by: str, request: gr.Request) -> list[Any]:
            if rank is None:  # the list was emptied for another photograph, which is shown already
                return [gr.skip(), gr.skip()]
            visit = visits.get(tab_of(request))
            if visit is None:
                return [views.messages([_FORGOTTEN]), ""]
            answer, spec = visit.answer, answerer.classifier.model.image_spec
            covering = made_by == _MAPS[1]
            column, name = int(answer.order[rank - 1]), answer.candidates[rank - 1].condition
            try:
                found = answerer.occlusion(answer, column) if covering else answerer.relevance(answer, column)
            except UserError as error:  # a tower without attentions
                return [views.messages([str(error)]), views.photograph(answer.photograph, spec)]
            caption = views.caption(name, covering, float(found.max()))
            return ["", views.photograph(answer.photograph, spec, found, caption)]

        def cover(stated: float, request: gr.Request) -> list[str]:
            visit = visits.get(tab_of(request))
            if visit is None:
                return [views.messages([_FORGOTTEN]), ""]
            found = answerer.prediction_set(visit.answer, stated)
            return ["", views.prediction_set(answerer, visit.answer, found)]

        def say(text: str, request: gr.Request) -> list[str]:
            visit = visits.get(tab_of(request))
            if visit is None:
                return [views.messages([_FORGOTTEN]), ""]
            try:
                sentences = sentences_of(text, limits.prompts)
            except UserError as error:
                return [views.messages([str(error)]), ""]
            return ["", views.sentences(answerer.score(visit.answer, sentences), answerer, visit.answer)]

        def clear(request: gr.Request) -> list[Any]:
            visits.forget(tab_of(request))
            return nothing()

        def close(request: gr.Request) -> None:
            visits.forget(tab_of(request))

        # one queue for all that the model does: it is not made for two threads
        ask: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "model", "concurrency_limit": 1}
        upload.upload(drop, [upload, slider], [upload, *outputs], **ask, show_progress_on=[photograph])
        choice.input(choose, [choice, slider], outputs, **ask)
        slider.change(cover, slider, [message, members], **ask, trigger_mode="always_last", show_progress="hidden")
        score.click(say, words, [message, scores], **ask)
        words.submit(say, words, [message, scores], **ask)
        for part in (condition, drawn_by):
            part.change(look, [condition, drawn_by], [message, photograph], **ask)
        forget.click(clear, None, outputs, **ask)
        page.unload(close)
    page.queue(max_size=limits.queue, api_open=False)
    return page


def places(answer: Answer) -> list[tuple[str, int]]:
    """Conditions and their ranks, best first; of an unfamiliar photograph by name, and no rank is shown."""
    if answer.unfamiliar:
        return sorted((f"{one.condition} ({one.code})", one.rank) for one in answer.candidates)
    return [(f"{one.rank}. {one.condition} ({one.code})", one.rank) for one in answer.candidates]


def tab_of(request: gr.Request) -> str:
    """The tab of a visitor: the name that the guard gave the visitor, and the one that the browser gave the tab."""
    return f"{request.headers.get(VISITOR, '')}/{request.session_hash}"


def read_all(answerer: Answerer, limits: Limits, paths: Sequence[Path]) -> tuple[list[Answer], list[str]]:
    """Reads, deletes and judges dropped files: the answers, and a sentence for each that could not be read."""
    answers, wrong = [], []
    for number, path in enumerate(paths):
        try:
            data = take(path, limits.file_bytes)
            if number < limits.files:
                answers.append(answerer.answer(answerer.read(data, path.name)))
        except UserError as error:
            wrong.append(str(error))
    if len(paths) > limits.files:
        wrong.append(f"{len(paths)} files were dropped; only the first {limits.files} are judged at once.")
    return answers, wrong


def sentences_of(text: str, most: int) -> list[str]:
    """The sentences of a text box, one per line, without repeats; a UserError for none, or more than ``most``."""
    found = list(dict.fromkeys(line.strip() for line in (text or "").splitlines() if line.strip()))
    if not found:
        raise UserError("Write a sentence first, for example: scaly plaques on the elbow.")
    if len(found) > most:
        raise UserError(f"{len(found)} sentences are more than the limit of {most} at once.")
    return found
