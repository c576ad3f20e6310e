"""What the page can be asked: a photograph, a stated coverage, sentences; and what the model answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize as unit

from siglip_med.core.errors import UserError
from siglip_med.data.dataset import normalize
from siglip_med.data.quality import fault
from siglip_med.demo.photograph import Photograph, read_photograph
from siglip_med.demo.tree import Icd, place_in_icd
from siglip_med.inference import Candidate, Classifier, Differential, occlusion_map, shifted_relevance_map
from siglip_med.inference.familiarity import BLANK, why_unfamiliar
from siglip_med.inference.maps import Target
from siglip_med.inference.neighbour import Neighbour
from siglip_med.inference.neighbours import Neighbours
from siglip_med.inference.ranking import confidences, no_conditions, ranked
from siglip_med.metrics import Predictions, fit_conformal, nonconformity
from siglip_med.models import TwoTower

NEAREST = 5
"""Training images beside a photograph."""


@dataclass(frozen=True)
class Answer:
    """What the model says of one photograph.

    Attributes:
        photograph: as the model sees it.
        embedding: ``[E]``.
        logits: ``[C]`` before calibration.
        order: columns, best first.
        candidates: every condition, best first.
        prompts: the same by the conditions' sentences, which typed sentences are held against; without a refit, those.
        familiarity: p-value against validation; None where the checkpoint knows none.
        unfamiliar: why confidences are not to be shown at once; "" for a familiar photograph.
    """

    photograph: Photograph
    embedding: Tensor
    logits: np.ndarray
    order: np.ndarray
    candidates: tuple[Candidate, ...]
    prompts: tuple[Candidate, ...]
    familiarity: float | None = None
    unfamiliar: str = ""

    @property
    def first(self) -> int:
        """Column of the most likely condition."""
        return int(self.order[0])


@dataclass(frozen=True)
class PredictionSet:
    """The conditions that cannot be left out at a stated coverage.

    Attributes:
        coverage: as stated.
        columns: of the conditions.
        images: of the validation split.
        whole: these are too few to promise it.
        measured: share of the test split whose sets held one of their conditions; None without its predictions.
        tested: images of the test split.
    """

    coverage: float
    columns: tuple[int, ...]
    images: int
    whole: bool
    measured: float | None = None
    tested: int = 0


@dataclass(frozen=True)
class SentenceScore:
    """A typed sentence beside the conditions, its place among them, and the tokens of it that are not read."""

    text: str
    logit: float
    confidence: float
    place: int
    cut: int


@dataclass(frozen=True)
class Answerer:
    """A loaded model with what lies beside it; several threads may ask, and are answered one after the other.

    Raises:
        UserError: the checkpoint names no conditions, or a code is none of ICD-10-CM.
    """

    classifier: Classifier
    source: str
    max_pixels: int
    top_k: int
    validation: Predictions | None = None
    test: Predictions | None = None
    training: Neighbours | None = None
    about: tuple[str, ...] = ()
    """What the model was trained on, and what its test found, a sentence each."""
    icd: Icd = field(init=False)
    _one: Lock = field(init=False, repr=False, compare=False, default_factory=Lock)
    """Held while the model works: a map changes how its attentions are computed."""

    def __post_init__(self) -> None:
        """Looks the codes up, and has the prompts encoded before anybody waits for them."""
        payload = self.classifier.payload
        if not payload["conditions"]:
            raise no_conditions(self.source)
        object.__setattr__(self, "icd", place_in_icd(payload["conditions"], payload["codes"], self.source))
        _ = self.classifier.texts

    def read(self, data: bytes, name: str) -> Photograph:
        """A file as the model wants it; see `read_photograph`."""
        return read_photograph(data, name, self.classifier.model.image_spec, self.max_pixels)

    @torch.no_grad()
    def answer(self, photograph: Photograph) -> Answer:
        """Ranks all conditions, with the numbers that ``predict.py`` gives; a UserError for a picture of nothing."""
        wrong = fault(photograph.pixels, (photograph.width, photograph.height))
        if wrong == BLANK:
            raise UserError(f"{photograph.name} is blank: there is nothing in it to rank conditions for.")
        classifier, model, payload = self.classifier, self.classifier.model, self.classifier.payload
        pixels = self.pixels(photograph)[None].to(model.logit_scale.device)
        with self._one:
            features = model.pooled_features(pixels)
            embedding = model.project_images(features).float()
            by_prompts = model.logits(embedding, classifier.texts)[0].cpu().numpy()
            logits = by_prompts if classifier.refit is None else classifier.logits(features)[0].cpu().numpy()
            (known,) = classifier.familiarity(features, [wrong])

        def everyone(scores: np.ndarray, calibration: Mapping[str, float] | None) -> tuple[Candidate, ...]:
            return ranked(scores, payload["conditions"], payload["codes"], calibration, len(scores))

        order, prompts = np.argsort(-logits, kind="stable"), everyone(by_prompts, payload["calibration"])
        candidates = prompts if classifier.refit is None else everyone(logits, classifier.calibration)
        direction, why = unit(embedding, dim=-1)[0].cpu(), why_unfamiliar(known, wrong)
        return Answer(photograph, direction, logits, order, candidates, prompts, known, why)

    def case(self, answers: Sequence[Answer]) -> Differential:
        """One answer of the best ``top_k`` conditions for several photographs; see `Classifier.case`."""
        parts = [Differential(one.photograph.name, one.candidates, one.familiarity, one.unfamiliar) for one in answers]
        logits = np.stack([one.logits for one in answers])
        return self.classifier.case("", parts, logits, self.top_k, "mean_logit")

    def pixels(self, photograph: Photograph) -> Tensor:
        """``[3, S, S]`` normalized, on the CPU."""
        return normalize(photograph.pixels[None], self.classifier.model.image_spec)[0]

    def differential(self, answer: Answer) -> tuple[int, ...]:
        """Columns of the best ``top_k`` conditions."""
        return tuple(int(column) for column in answer.order[: self.top_k])

    def prediction_set(self, answer: Answer, coverage: float) -> PredictionSet | None:
        """The conformal set of `fit_conformal`, calibrated on validation; None without its predictions.

        Of an unfamiliar photograph it is all conditions.
        """
        if self.validation is None:
            return None
        calibration = self.classifier.calibration
        temperature = 1.0 if calibration is None else calibration["temperature"]
        rule = fit_conformal(self.validation, coverage, temperature=temperature)
        inside = nonconformity(answer.logits[None], rule.score, rule.temperature)[0] <= rule.threshold
        columns = tuple(int(column) for column in answer.order if inside[column] or answer.unfamiliar)
        found = PredictionSet(coverage, columns, len(self.validation), not np.isfinite(rule.threshold))
        if self.test is None:
            return found
        held = rule.sets(self.test) & self.test.positive
        return replace(found, measured=float(held.any(axis=1).mean()), tested=len(self.test))

    def nearest(self, answer: Answer) -> tuple[Neighbour, ...] | None:
        """The training images nearest to a photograph, nearest first; None where none are kept."""
        return None if self.training is None else self.training.nearest(answer.embedding.numpy(), NEAREST)

    def relevance(self, answer: Answer, column: int) -> np.ndarray:
        """Where the model looks for a condition against the mean of all, ``[h, w]``: `shifted_relevance_map`."""
        return self._map(shifted_relevance_map, answer, column)

    def occlusion(self, answer: Answer, column: int) -> np.ndarray:
        """How much that score falls where the photograph is covered, ``[h, w]`` float32; see `occlusion_map`."""
        return self._map(occlusion_map, answer, column)

    def _map(self, draw: Callable[[TwoTower, Tensor, Target], np.ndarray], answer: Answer, column: int) -> np.ndarray:
        with self._one:  # both bring the pixels to the model's device
            return draw(self.classifier.model, self.pixels(answer.photograph), self.classifier.target(column))

    @torch.no_grad()
    def score(self, answer: Answer, sentences: Sequence[str]) -> tuple[SentenceScore, ...]:
        """How sentences fit a photograph, beside the conditions by their own sentences (no refit knows a new one)."""
        model, calibration = self.classifier.model, self.classifier.payload["calibration"]
        device = model.logit_scale.device
        tokens = {name: value.to(device) for name, value in model.tokenize(sentences).items()}
        with self._one:
            logits = model.logits(answer.embedding[None].to(device), model.encode_texts(**tokens))[0].cpu().numpy()
        return tuple(
            SentenceScore(
                text=text,
                logit=float(logit),
                confidence=float(confidence),
                place=1 + sum(candidate.logit > float(logit) for candidate in answer.prompts),
                cut=self._cut(text),
            )
            for text, logit, confidence in zip(sentences, logits, confidences(logits, calibration), strict=True)
        )

    def _cut(self, text: str) -> int:
        model = self.classifier.model
        whole = model.tokenizer([text.lower() if model.lowercase_text else text], truncation=False)["input_ids"][0]
        return max(0, len(whole) - model.max_text_length)
