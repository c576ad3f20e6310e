"""``--help`` says what a command does, how it is typed, and what every setting and option is."""

import subprocess
import sys

import pytest

from siglip_med.launch.entry import launch
from siglip_med.launch.help import help_text
from tests.short_runs import CONF

COMMANDS = ("train", "tune", "evaluate", "predict", "embed", "export", "convert", "check", "labels", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_it_has_a_sentence_examples_and_every_setting(command):
    text = help_text(CONF, command)
    assert text.splitlines()[0].endswith((".", ":"))
    examples = text.split("Examples:\n")[1].split("\n\n")[0].splitlines()
    assert any(line.strip().startswith(("python ", "siglip-med-")) for line in examples)
    lines = (CONF / f"{command}.yaml").read_text().splitlines()
    keys = [line.split(":")[0] for line in lines if line[:1].isalpha() and ":" in line]
    for key in set(keys) - {"hydra", "defaults"}:
        assert f"\n  {key}:" in text, key
    assert "\n  hydra:" not in text


def test_every_option_of_every_group_of_train_is_explained():
    text = help_text(CONF, "train")
    groups = text.split("Groups (")[1].split("\n\n")[0].splitlines()
    options = [line.split(maxsplit=1) for line in groups if line.startswith("    ")]
    assert [option for option in options if len(option) < 2] == []
    named = {option[0] for option in options}
    for group in ("data", "loss", "model", "trainer", "experiment", "debug", "logger"):
        assert {path.stem for path in (CONF / group).glob("[!_]*.yaml")} <= named


def test_a_command_prints_it_and_runs_nothing(tmp_path):
    code = "from siglip_med.launch import predict; predict()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, cwd=tmp_path, check=True, timeout=100
    )
    assert done.stdout == help_text(CONF, "predict")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("siglip-med-train experiment=soft_", ["experiment=soft_labels"]),
        ("siglip-med-train data.batch_si", ["data.batch_size="]),
        ("siglip-med-evaluate report.bootst", ["report.bootstrap="]),
    ],
)
def test_a_shell_completes_settings_and_choices_of_the_installed_commands(typed, offered, monkeypatch, capfd):
    command = typed.split()[0]
    monkeypatch.setattr(sys, "argv", [command, "-sc", "query=bash"])
    monkeypatch.setenv("COMP_LINE", typed)
    monkeypatch.setenv("COMP_POINT", str(len(typed)))
    launch(command.removeprefix("siglip-med-"))
    assert capfd.readouterr().out.split() == offered
