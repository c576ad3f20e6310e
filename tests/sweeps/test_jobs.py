"""A sweep that is given again does what is left, and a job that fails is that job's matter alone."""

from collections import Counter

import pytest

from siglip_med.core.errors import UserError
from siglip_med.launch.command_line import check_words
from siglip_med.sweeps import read_records
from tests.short_runs import CONF
from tests.sweeps.app import Cut
from tests.sweeps.chaos import broken_and_whole, grid

GRID = ["experiment=baseline,softmax", "seed=0,1"]


def names(app):
    return [f"{config.name}{config.seed}" for config in app.done]


def test_a_cut_sweep_goes_on_and_ends_with_the_table_of_the_unbroken_one(app, tmp_path, capsys):
    app.answer = lambda config: 0.1 * config.seed + len(config.name) / 100
    assert app.run(*GRID, folder=tmp_path / "whole") == 0
    app.done.clear()
    answer = app.answer

    app.cut_at(3)
    with pytest.raises(Cut):
        app.run(*GRID)
    assert [record.state for record in read_records(app.folder)].count("finished") == 2
    app.answer = answer
    assert app.run(*GRID) == 0
    again = Counter(names(app))
    assert len(again) == 4
    assert sorted(again.values()) == [1, 1, 1, 2]  # the one that was cut
    for table in ("leaderboard.csv", "leaderboard.md"):
        whole = (tmp_path / "whole" / table).read_text()
        assert (app.folder / table).read_text().replace("folder: sweep", "folder: whole") == whole
    assert "to resume this sweep if it is interrupted" in capsys.readouterr().err


def test_a_failed_job_is_listed_and_ends_nothing(app, capsys):
    def answer(config):
        if config.seed == 1:
            raise (
                UserError("data.source.root=/nowhere: there is no such folder")
                if config.name == "softmax"
                else (ZeroDivisionError("float\ndivision"))
            )
        return 0.5

    app.answer = answer
    assert app.run(*GRID, "hydra/job_logging=default") == 1
    assert len(app.done) == 4
    printed = capsys.readouterr().err
    assert "2 of 4 jobs failed" in printed
    listed = printed[printed.index("2 of 4") :]
    assert "  experiment=softmax seed=1\n    data.source.root=/nowhere: there is no such folder\n    log: " in listed
    assert "    ZeroDivisionError: float division\n" in listed
    (record,) = (r for r in read_records(app.folder) if r.state == "failed" and "baseline" in r.folder)
    assert "Traceback" in (app.folder / record.log).read_text()
    page = (app.folder / "leaderboard.html").read_text()
    assert "experiment=softmax seed=1" in page
    assert f'href="{record.log}"' in page
    app.answer = lambda config: 0.5
    app.done.clear()
    assert app.run(*GRID) == 0
    assert sorted(names(app)) == ["baseline1", "softmax1"]
    assert "None." in (app.folder / "leaderboard.html").read_text()


def test_what_is_done_is_known_by_the_settings_that_decide_it(app):
    app.run("experiment=baseline", "seed=0,1")
    for words, left in (
        (["seed=2,1,0", "data.num_workers=0", "logger=null"], 1),
        (["seed=0", "trainer.max_steps=7"], 1),
        (["seed=0", "evaluation.bootstrap=7"], 1),
    ):
        app.done.clear()
        assert app.run("experiment=baseline", *words) == 0
        assert len(app.done) == left, words


def test_a_job_whose_record_is_damaged_or_whose_folder_is_gone_is_done_again(app, capsys):
    app.run("experiment=baseline", "seed=0,1,2")
    first, second, _ = sorted((app.folder / "jobs").glob("*.json"))
    first.write_bytes(first.read_bytes().replace(b"0.5", b"0.6"))
    (record,) = (r for r in read_records(app.folder) if r.key == second.stem)
    (app.folder / record.folder / "run.json").unlink()
    app.done.clear()
    assert app.run("experiment=baseline", "seed=0,1,2") == 0
    assert len(app.done) == 2
    assert f"{first} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["sweep=losses"], ["sweep=lora_rank", "seed=1"]])
def test_a_sweep_without_m_is_one_line(words):
    with pytest.raises(UserError, match=f"{words[0]}: a sweep needs -m"):
        check_words(CONF, "train", words)


def test_real_jobs_killed_half_way(tmp_path):
    assert broken_and_whole(grid(2, ["baseline", "softmax"]), tmp_path, jobs=4) >= 2
