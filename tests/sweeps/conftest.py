import logging

import pytest

from tests.sweeps.app import App


@pytest.fixture
def app(monkeypatch, tmp_path):
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield App(monkeypatch, tmp_path / "sweep")
    root.handlers[:], root.level = handlers, level  # Hydra logs as a job's config says, in this process too
