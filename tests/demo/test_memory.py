"""What is remembered, and that it is forgotten."""

import os
import time
from pathlib import Path

import pytest

from siglip_med.core.errors import UserError
from siglip_med.demo.sessions import Sessions
from siglip_med.demo.uploads import private_folder, sweep, take


def test_tabs_are_apart_and_the_one_idle_longest_goes_first():
    now = [0.0]
    sessions = Sessions[str](2, 10.0, clock=lambda: now[0])
    sessions.put("a", "1")
    sessions.put("b", "2")
    assert sessions.get("a") == "1"
    sessions.put("c", "3")
    assert [sessions.get(tab) for tab in "abc"] == ["1", None, "3"]
    sessions.forget("a")
    assert sessions.get("a") is None
    assert len(sessions) == 1


def test_an_idle_tab_is_forgotten_and_use_keeps_it():
    now = [0.0]
    sessions = Sessions[str](5, 10.0, clock=lambda: now[0])
    sessions.put("a", "1")
    sessions.put("b", "2")
    now[0] = 6.0
    assert sessions.get("a") == "1"
    now[0] = 11.0
    assert [sessions.get(tab) for tab in "ab"] == ["1", None]
    now[0] = 30.0
    sessions.purge()
    assert len(sessions) == 0


@pytest.fixture
def upload(tmp_path):
    folder = tmp_path / "hash"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"12345")
    return folder / "a.jpg"


def test_a_file_is_deleted_when_it_is_read_and_when_it_is_refused(upload):
    assert take(upload, largest=5) == b"12345"
    assert not upload.parent.exists()
    with pytest.raises(UserError, match=r"^a\.jpg is no longer there .*; drop it again\.$"):
        take(upload, largest=5)


def test_a_file_that_is_too_large_is_deleted_unread(upload):
    with pytest.raises(UserError, match=r"^a\.jpg has 0\.0 MB, more than the limit of "):
        take(upload, largest=4)
    assert not upload.parent.exists()


def test_only_what_was_abandoned_is_swept(tmp_path, upload):
    (tmp_path / "empty").touch()
    old = time.time() - 100
    for path in (upload.parent, tmp_path / "empty"):
        os.utime(path, (old, old))
    (tmp_path / "young").touch()
    sweep(tmp_path, age=60)
    assert [path.name for path in tmp_path.iterdir()] == ["young"]


def test_the_folder_is_private_and_goes_with_the_page(monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "elsewhere")
    monkeypatch.delenv("GRADIO_ANALYTICS_ENABLED", raising=False)
    with private_folder() as folder:
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "left.jpg").touch()
    assert not Path(folder).exists()
    assert os.environ["GRADIO_TEMP_DIR"] == "elsewhere"
    assert "GRADIO_ANALYTICS_ENABLED" not in os.environ
