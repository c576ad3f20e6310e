"""A model for the page: the short run of the embedded default, with its run folder."""

from pathlib import Path

import pytest

from siglip_med.commands.demo import predictions_of
from siglip_med.demo.answers import Answerer
from siglip_med.demo.limits import Limits
from siglip_med.inference import load
from siglip_med.inference.neighbours import beside

LIMITS = Limits(files=3, megabytes=2, pixels=150_000_000, prompts=3, visitors=4, minutes=30, queue=8)


@pytest.fixture(scope="session")
def answerer(short_run) -> Answerer:
    best = short_run.best
    assert best is not None
    classifier = load(best, device="cpu")
    training, _ = beside(best, classifier.model)
    return Answerer(classifier, str(best), LIMITS.pixels, 5, *predictions_of(best), training)


@pytest.fixture(scope="session")
def drawing(short_run) -> Path:
    """One synthetic drawing."""
    table = short_run.components.data.table
    return table.root / table.frame["image"].iloc[7]
