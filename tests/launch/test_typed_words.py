"""A word that is mistyped names the nearest; what is printed to be typed next is how this user types it."""

import subprocess
import sys

import pytest

from siglip_med.core import shell
from siglip_med.core.config import config_dir
from siglip_med.core.errors import UserError
from siglip_med.launch import NAMES
from siglip_med.launch.command_line import check_words
from siglip_med.launch.entry import launch


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("trainer.max_stps=3", "trainer.max_steps"),
        ("data.batch_sise=8", "data.batch_size"),
        ("evaluation.boostrap=9", "evaluation.bootstrap"),
        ("hydra.launcher.n_job=2", None),
        ("hydra.run.di=x", "hydra.run.dir"),
        ("quite.another=1", None),
    ],
)
def test_a_typo_names_the_nearest_setting(word, meant):
    with pytest.raises(UserError) as error:
        check_words(config_dir(), "train", ["experiment=layered", word])
    said = str(error.value)
    assert "\n" not in said
    assert word.partition("=")[0] in said
    assert said.endswith(f"; did you mean {meant}?") if meant else "did you mean" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["-m", "launcher=slurm", "seed=0,1", "hydra.launcher.partiton=x"],
            r"did you mean hydra\.launcher\.partition\?$",
        ),
        (["-m", "seed=0,1", "--cfg", "hydra"], "^--cfg: shows one run; leave -m out$"),
        (["--info", "--multirun", "seed=0,1"], "^--info: shows one run; leave --multirun out$"),
    ],
)
def test_what_a_sweep_cannot_do_is_one_line(words, said):
    with pytest.raises(UserError, match=said):
        check_words(config_dir(), "train", words)


def test_a_sweep_on_slurm_where_there_is_none_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["siglip-med-train", "-m", "launcher=slurm", "seed=0,1"])
    with pytest.raises(SystemExit):
        launch("train")
    assert capsys.readouterr().err.startswith("error: launcher=slurm: there is no srun here; start the sweep where")


def test_two_typos_are_named_one_by_one():
    with pytest.raises(UserError, match=r"trainer\.max_stps"):
        check_words(config_dir(), "train", ["trainer.max_stps=3", "data.batch_sise=8"])


@pytest.mark.parametrize(
    ("name", "typed"), [("/usr/bin/siglip-med-train", "siglip-med-evaluate"), ("train.py", "python evaluate.py")]
)
def test_the_next_command_is_typed_as_this_one_was(monkeypatch, name, typed):
    monkeypatch.setattr(sys, "argv", [name])
    assert shell.other_command("evaluate") == typed


def test_the_package_lists_its_commands_and_says_its_version_without_torch():
    code = "import runpy, sys; runpy.run_module('siglip_med', run_name='__main__'); assert 'torch' not in sys.modules"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("siglip-med 0.")
    names = [line.split()[0] for line in said.splitlines() if line.startswith("  siglip-med-")]
    assert sorted(names) == sorted(f"siglip-med-{name}" for name in NAMES)
    assert all(len(line.split()) > 4 for line in said.splitlines() if line.startswith("  "))
