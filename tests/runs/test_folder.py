"""The folder of a run is claimed whole or not at all, by one run alone."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from siglip_med.core.errors import UserError
from siglip_med.runs import folder as module
from siglip_med.runs.folder import RECORD, claim, locked, read_record

SETTINGS = {"seed": 0}


def test_a_claimed_folder_has_a_whole_record_that_is_no_program(tmp_path):
    before = os.umask(0o022)
    try:
        claim(tmp_path / "run", SETTINGS)
    finally:
        os.umask(before)
    record = read_record(tmp_path / "run")
    assert record is not None
    assert record["settings"] == SETTINGS
    assert stat.S_IMODE((tmp_path / "run" / RECORD).stat().st_mode) == 0o644
    assert [path.name for path in (tmp_path / "run").iterdir()] == [RECORD]


def test_a_second_run_is_refused(tmp_path):
    claim(tmp_path, SETTINGS)
    with pytest.raises(UserError, match=r"holds a run already: give another folder .*resume="):
        claim(tmp_path, {"seed": 1})
    assert read_record(tmp_path)["settings"] == SETTINGS


def test_of_many_at_once_one_has_the_folder(tmp_path, monkeypatch):
    names = iter(range(100))
    monkeypatch.setattr(module.os, "getpid", lambda: next(names))  # threads stand for processes

    def attempt(seed):
        try:
            claim(tmp_path / "run", {"seed": seed})
        except UserError:
            return None
        return seed

    with ThreadPoolExecutor(8) as pool:
        won = [seed for seed in pool.map(attempt, range(16)) if seed is not None]
    assert len(won) == 1
    assert read_record(tmp_path / "run")["settings"] == {"seed": won[0]}


@pytest.mark.parametrize("torn", ["", "{", '{"started": 1', json.dumps({"started": "x"}), "[]"])
def test_a_record_that_is_not_whole_is_taken_over_and_said(tmp_path, capsys, torn):
    (tmp_path / RECORD).write_text(torn)
    claim(tmp_path, SETTINGS)
    assert read_record(tmp_path)["settings"] == SETTINGS
    assert "was not whole: its process died in its first moment" in capsys.readouterr().err.replace("\n", "")


def test_a_torn_record_of_a_process_that_lives_is_not_taken(tmp_path):
    (tmp_path / RECORD).write_text("")
    with locked(tmp_path), pytest.raises(UserError, match="another process is running this run"):
        claim(tmp_path, SETTINGS)
    assert (tmp_path / RECORD).read_text() == ""


@pytest.mark.parametrize("call", ["link", "open"])
def test_a_kill_at_any_step_leaves_a_folder_that_can_be_claimed(tmp_path, monkeypatch, call):
    """Whatever step the process dies at, the next one claims the folder."""

    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        if call == "link":
            patch.setattr(module.os, "link", die)
        else:
            patch.setattr(module, "write_json", die)
        with pytest.raises(Killed):
            claim(tmp_path / "run", SETTINGS)
    assert not (tmp_path / "run" / RECORD).exists()
    claim(tmp_path / "run", SETTINGS)
    assert read_record(tmp_path / "run") is not None


def test_a_file_system_without_links_is_served(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(module.errno.EPERM, "no links here")

    monkeypatch.setattr(module.os, "link", refuse)
    claim(tmp_path, SETTINGS)
    assert read_record(tmp_path)["settings"] == SETTINGS
    with pytest.raises(UserError, match="holds a run already"):
        claim(tmp_path, SETTINGS)
