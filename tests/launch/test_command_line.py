"""A word that Hydra cannot read is named with the way to write it, and that way works."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from siglip_med.core.errors import UserError
from siglip_med.core.outside import csv_cell
from siglip_med.core.shell import quoted, setting
from siglip_med.launch.command_line import check_words, make_exclusively, remove_if_untouched
from siglip_med.launch.entry import run_folder_words
from tests.short_runs import CONF

AWKWARD = [
    "logs/epoch=3-step=20.ckpt",
    "/data/müller",
    "/data/a#b",
    "/data/it's",
    '/data/"quoted"',
    "/data/two words",
    "/data/a,b",
    "/data/[x]",
    "/data/{x}",
    "C:\\data\\new",
    ";",
    "[/b].jpg",
]


def read(typed):
    """What Hydra understands of a word as typed in a shell."""
    (word,) = shlex.split(typed)
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize("value", AWKWARD)
def test_a_printed_setting_can_be_typed(value):
    assert read(setting("data.source.root", value)) == value


def test_a_plain_setting_is_printed_as_it_is():
    assert setting("checkpoint", "logs/run/best.ckpt") == "checkpoint=logs/run/best.ckpt"


@pytest.mark.parametrize("value", ["logs/epoch=3-step=20.ckpt", "/data/müller", "/data/a#b", "/data/it's", ";", "a,b"])
@pytest.mark.parametrize("key", ["resume", "data.source.root"])
def test_the_cure_is_in_the_line_and_works(key, value):
    word = f"{key}={value}"
    with pytest.raises(UserError) as refused:
        check_words(CONF, "train", ["experiment=layered", word])
    line = str(refused.value)
    assert line.startswith(word)
    assert "\n" not in line
    cure = line.partition("write ")[2]
    assert cure == quoted(word)
    assert read(cure) == value


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("experiment", "experiment: a setting is written key=value"),
        ("=3", "=3: the name of the setting is missing"),
        ("da ta=3", "da ta=3: 'da ta' is no name of a setting"),
    ],
)
def test_what_is_no_setting_is_said(word, line):
    with pytest.raises(UserError) as refused:
        check_words(CONF, "train", [word])
    assert str(refused.value) == line


def test_a_group_that_others_follow_is_named_when_it_is_switched_off():
    with pytest.raises(UserError, match="model") as refused:
        check_words(CONF, "train", ["model=null"])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("word", ["logger=null", "augmentation=null", "features=null", "debug=null"])
def test_a_group_that_may_be_off_is_switched_off(word):
    check_words(CONF, "train", [word])


def folder_words(words):
    return run_folder_words("train", words, check_words(CONF, "train", words))


def test_two_runs_of_one_second_get_two_folders(tmp_path):
    words = [f"paths.log_dir={tmp_path}", f"hydra.run.dir={tmp_path}/run"]
    assert folder_words(words) == [], "a folder that is asked for is taken"
    assert [make_exclusively(tmp_path / "a").name for _ in range(3)] == ["a", "a_2", "a_3"]
    made = folder_words([f"paths.log_dir={tmp_path}/logs"])
    assert made[0].startswith("hydra.run.dir=")
    assert len(list((tmp_path / "logs").rglob("*_seed0"))) == 1
    assert folder_words(["--cfg", "job"]) == []


def test_a_folder_of_nothing_goes_with_those_above_it_that_are_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kept, left in ((False, []), (True, ["logs", "logs/train"])):
        folder = make_exclusively(tmp_path / "logs" / "check" / "now")
        (folder / "check.log").write_text("")
        if kept:
            (tmp_path / "logs" / "train").mkdir()
        remove_if_untouched(folder)
        assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == left
    outside = make_exclusively(tmp_path / "elsewhere" / "now")
    monkeypatch.chdir(tmp_path / "logs")
    remove_if_untouched(outside)
    assert outside.parent.is_dir(), "who gives another place keeps it"


def test_a_run_folder_with_spaces_and_umlauts_is_passed_on(tmp_path):
    folder = tmp_path / "two words = müller"
    (word,) = folder_words([shlex.split(setting("paths.log_dir", folder))[0]])
    assert check_words(CONF, "train", [word]).hydra.run.dir.startswith(str(folder))


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "@SUM(A1)", "-1+cmd|x", "\tx"])
def test_a_name_that_begins_like_a_formula_is_no_formula(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["a.jpg", "-3205742176803893704.png", "photos/=x.jpg"])
def test_other_names_stay(text):
    assert csv_cell(text) == text
