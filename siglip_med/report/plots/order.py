"""Conditions in the order of the classification, and the chapters that they form."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from siglip_med.metrics import Predictions

_CHAPTER = re.compile(r"(?P<number>[IVXL]+)\s*[-–:]\s*(?P<title>.*?)\s*(?:\((?P<codes>[A-Z]\w\w\s*-\s*[A-Z]\w\w)\))?")


class Span(NamedTuple):
    """Neighboring conditions of one chapter: positions ``start`` up to, not including, ``end``."""

    chapter: str
    start: int
    end: int


def icd_order(predictions: Predictions) -> np.ndarray:
    """``[C]`` positions of the conditions sorted by code (chapters, blocks and categories are then contiguous)."""
    return np.array(sorted(range(len(predictions.conditions)), key=lambda c: (predictions.codes[c], c)), dtype=np.int64)


def chapters_of(predictions: Predictions) -> tuple[str, ...]:
    """The C chapters; where they are unknown, the coarse groups."""
    return predictions.chapters or predictions.groups


def chapter_spans(chapters: Sequence[str]) -> list[Span]:
    """Runs of equal chapters, in the order given."""
    edges = [0] + [i for i in range(1, len(chapters)) if chapters[i] != chapters[i - 1]] + [len(chapters)]
    return [Span(chapters[a], a, b) for a, b in pairwise(edges) if b > a]


def chapter_label(chapter: str, with_title: bool = True) -> str:
    """``"XII Diseases of the skin"`` from the classification's heading, or ``"XII"`` alone; other forms as they are."""
    match = _CHAPTER.fullmatch(chapter.strip())
    if match is None:
        return chapter
    if not with_title:
        return match["number"]
    return f"{match['number']} {match['title']}"
