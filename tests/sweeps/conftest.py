import pytest

from tests.sweeps.app import App


@pytest.fixture
def app(monkeypatch, tmp_path):
    return App(monkeypatch, tmp_path / "sweep")
